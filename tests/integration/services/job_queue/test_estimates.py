"""A dry run makes nothing, and says what a job would take or everything that is wrong with it."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.job_queue import processes
from services.job_queue.estimates import read_cost
from services.job_queue.states import ProcessKind
from services.registry.releases import find
from tests.support.commands import Darkroom
from tests.support.console import make_job, remove_jobs
from tests.support.job_queue import empty_queue
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack, publish
from tests.support.tenants import Tenant, make_tenant

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 50, "steps": 10, "guidance_scale": 1.0}
PROFILE = "cpu/of-this-test"
WITH_ROWS = f"{PROFILE}/32+4+1rows"


@pytest.fixture
def tenant(stack: Stack) -> Tenant:
    return make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")


@pytest.fixture
def measured(engine: Engine) -> Iterator[None]:
    """One worker serves the queue. The release has taken half a second for an evaluation on its profile."""
    empty_queue(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET stopped_at = now() WHERE kind = 'worker'"))
        worker = processes.register(connection, ProcessKind.WORKER, ["default"])
        processes.record_heartbeat(connection, worker, PROFILE)
        connection.execute(
            text("""
                INSERT INTO usage_counts
                SELECT CAST(now() AT TIME ZONE 'UTC' AS date), 'nobody', release_id, profile, 0, 100, 1000, seconds,
                    40000
                FROM aliases, (VALUES (:profile, 500), ('another', 5)) AS used (profile, seconds)
                WHERE name = 'tiny' AND alias = 'production'
            """),
            {"profile": PROFILE},
        )
    yield
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM usage_counts WHERE tenant = 'nobody'"))
        connection.execute(text("UPDATE workers SET stopped_at = now() WHERE id = :id"), {"id": worker})


def estimate(tenant: Tenant, request: dict[str, Any], model: str = "tiny") -> Any:
    job = tenant.submit({**request, "dry_run": True}, model)
    tenant.wait(job)
    with tenant.connect() as client:
        query = "SELECT state, reason, total, plan, manifest_key, estimate FROM jobs WHERE id = %s"
        return client.execute(query, (job,)).fetchone()


@pytest.mark.usefixtures("dispatcher", "measured")
def test_a_dry_run_says_what_its_job_would_take(stack: Stack, tenant: Tenant) -> None:
    ended = estimate(tenant, REQUEST)
    assert (ended.state, ended.reason, ended.total, ended.plan, ended.manifest_key) == (
        "succeeded",
        None,
        0,
        None,
        None,
    )
    found = ended.estimate
    assert (found["images"], found["evaluations"], found["bytes"], found["gpu_seconds"]) == (50, 500, 20_000, 250)
    assert found["release"].startswith("tiny@")
    now = datetime.now(UTC)
    assert now - timedelta(minutes=2) < datetime.fromisoformat(found["starts_at"]) <= now
    took = datetime.fromisoformat(found["ends_at"]) - datetime.fromisoformat(found["starts_at"])
    assert took == timedelta(seconds=250)
    archived = estimate(tenant, {**REQUEST, "output": {"archive": "tar"}}).estimate
    assert (archived["bytes"], archived["gpu_seconds"]) == (40_000, 250)
    busy = make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")
    busy.wait(busy.submit(REQUEST), "planned")
    beside = estimate(tenant, REQUEST).estimate
    later = datetime.fromisoformat(beside["ends_at"]) - datetime.fromisoformat(found["ends_at"])
    assert later >= timedelta(seconds=250)


@pytest.mark.usefixtures("dispatcher", "measured")
def test_what_an_image_takes_besides_its_evaluations_is_told_apart(
    stack: Stack, tenant: Tenant, engine: Engine
) -> None:
    """Few evaluations an image are mostly decoding: an average of all evaluations would be far too little for them."""
    with engine.begin() as connection:
        release = find(connection, "tiny@production").id
        made = make_job(stack, 32, tenant=tenant.name, release_id=release, pictures=1)
        connection.execute(
            text("""
                UPDATE outputs SET profile = :profile, evaluations = 10 + 10 * (index % 2),
                    gpu_seconds = 2 + 0.25 * (10 + 10 * (index % 2)) WHERE job_id = :job
            """),
            {"profile": PROFILE, "job": made},
        )
    try:
        found = estimate(tenant, {**REQUEST, "steps": 1}).estimate
    finally:
        remove_jobs(stack)
    assert (found["evaluations"], found["gpu_seconds"]) == (50, pytest.approx(50 * 2.25))


@pytest.mark.usefixtures("dispatcher", "measured")
def test_the_end_counts_steps_one_after_the_other_and_other_work_by_its_own_cost(
    stack: Stack, tenant: Tenant, engine: Engine, tmp_path: Path
) -> None:
    """A step computes all rows, however few images there are; and another release may be ten times as slow."""
    slow = f"slow-{uuid.uuid4().hex[:8]}"
    publish(stack, make_tiny_release(tmp_path / "slow", name=slow))
    with engine.begin() as connection:
        for table in ("workers", "usage_counts"):
            connection.execute(
                text(f"UPDATE {table} SET profile = :profile WHERE profile = :old"),
                {"profile": WITH_ROWS, "old": PROFILE},
            )
        connection.execute(
            text("INSERT INTO usage_counts SELECT day, tenant, :slow, profile, 0, 100, 1000, 5000, 40000 FROM "
                 "usage_counts WHERE tenant = 'nobody' AND profile = :profile"),
            {"profile": WITH_ROWS, "slow": find(connection, slow).id},
        )  # fmt: skip
    one = {"items": [{"class_label": 1}], "steps": 10, "guidance_scale": 1.0}
    alone = estimate(tenant, one).estimate
    assert alone["gpu_seconds"] == 5
    assert seconds_between(alone) == 160  # ten steps of 32 rows
    large = estimate(tenant, {**one, "images_per_item": 20, "size": [64, 64]}).estimate
    assert (large["evaluations"], large["bytes"], large["gpu_seconds"]) == (800, 32_000, 400)
    busy = make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")
    busy.wait(busy.submit(REQUEST, slow), "planned")
    beside = estimate(tenant, REQUEST).estimate
    assert seconds_between(beside) == 500  # shared with 2500 s of the other release


@pytest.mark.usefixtures("dispatcher", "measured")
def test_images_of_other_sizes_have_the_cost_of_their_own_rows(tenant: Tenant, engine: Engine) -> None:
    """They share the network among fewer rows, and are not compiled."""
    own = f"{PROFILE}/torch/float32/compiled-0123456789ab/32+4+1rows"
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET profile = :own WHERE profile = :old"), {"own": own, "old": PROFILE})
        for profile, seconds in (
            (f"{own}#01234567", 500),
            (f"{PROFILE}/torch/float32/eager/8+1+1rows#01234567", 600),
            ("cpu/of-another-machine/torch/float32/eager/8+1+1rows#01234567", 5_000),
        ):
            connection.execute(
                text("INSERT INTO usage_counts SELECT day, tenant, release_id, :profile, 0, 100, 1000, :seconds, 40000 "
                     "FROM usage_counts WHERE tenant = 'nobody' AND profile = 'another'"),
                {"profile": profile, "seconds": seconds},
            )  # fmt: skip
    assert estimate(tenant, REQUEST).estimate["gpu_seconds"] == pytest.approx(250)
    large = estimate(tenant, {**REQUEST, "size": [64, 64]}).estimate
    assert (large["evaluations"], large["gpu_seconds"]) == (2_000, pytest.approx(1_200))
    both = {**REQUEST, "items": [{"class_label": 1}, {"class_label": 1, "size": [64, 64]}]}
    assert estimate(tenant, both).estimate["gpu_seconds"] == pytest.approx(250 + 1_200)


def seconds_between(found: Any) -> float:
    """Return how long an estimate says that a job takes."""
    began, ended = (datetime.fromisoformat(found[name]) for name in ("starts_at", "ends_at"))
    return (ended - began).total_seconds()


@pytest.mark.usefixtures("measured")
def test_a_light_decoder_has_its_own_cost(engine: Engine) -> None:
    with engine.begin() as connection:
        release = find(connection, "tiny@production").id
        full = read_cost(connection, release, "default")
        assert read_cost(connection, release, "default", "light") == full  # none was made with it yet
        connection.execute(
            text("""
                INSERT INTO usage_counts SELECT day, tenant, release_id, :profile, 0, 100, 1000, 250, 40000
                FROM usage_counts WHERE tenant = 'nobody' AND profile = 'another'
            """),
            {"profile": f"{PROFILE}/light-decoder#12345678"},
        )
        light = read_cost(connection, release, "default", "light")
        assert read_cost(connection, release, "default") == full
    assert full is not None
    assert light is not None
    assert (full.seconds, light.seconds) == (0.5, 0.25)


@pytest.mark.usefixtures("dispatcher")
def test_lines_are_checked_and_mistakes_told(stack: Stack) -> None:
    uri = stack.upload(f"{uuid.uuid4()}.jsonl", b'{"class_label": 1}\n{"class_label": 99}\n{"class_label": 2}\n')
    job = stack.submit({"input_uri": uri, "steps": 2, "dry_run": True})
    found = stack.wait(job).estimate
    assert (found["images"], found["invalid_items"]) == (2, 1)
    assert found["mistakes"][0].startswith("line 2: class_label: 99 is not allowed")
    assert stack.outputs(job) == []


@pytest.mark.usefixtures("dispatcher")
def test_a_request_that_is_not_valid_is_told_every_mistake(stack: Stack, darkroom_here: Darkroom) -> None:
    wrong = json.dumps({"items": [{"class_label": 99}], "steps": 0})
    done = darkroom_here("jobs", "estimate", "--model", "tiny", "--request", wrong)
    assert done.returncode == 1
    assert "items[0].class_label: 99 is not allowed" in done.stderr
    assert "steps: 0 is not allowed" in done.stderr


@pytest.mark.usefixtures("dispatcher", "measured")
def test_the_command_prints_the_estimate(stack: Stack, darkroom_here: Darkroom) -> None:
    arguments = ["jobs", "estimate", "--model", "tiny", "--request", json.dumps(REQUEST)]
    done = darkroom_here(*arguments)
    assert done.returncode == 0, done.stderr
    assert "gpu seconds    250.0\n" in done.stdout
    assert json.loads(darkroom_here(*arguments, "--json").stdout)["evaluations"] == 500


@pytest.mark.usefixtures("dispatcher")
def test_a_cost_that_is_unknown_is_said(tenant: Tenant, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET stopped_at = now() WHERE kind = 'worker'"))
    assert estimate(tenant, REQUEST).estimate["unknown"].startswith(("this release has made", "no worker serves"))
