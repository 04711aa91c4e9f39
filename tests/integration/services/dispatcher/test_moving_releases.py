"""The releases of a chain move or retire while it is planned: its stages keep what was checked."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import planner
from services.job_queue import planning
from services.registry import aliases, releases, retirement
from tests.support.chains import FINISH, UP, publish_chain, submit_chain
from tests.support.job_queue import claim
from tests.support.releases import make_tiny_release
from tests.support.stack import Process, Stack

REQUEST = {
    "items": [{"class_label": 3}] * 5, "images_per_item": 8, "then": [UP, {**FINISH, "model": "finishing@production"}]
}  # fmt: skip


class Crashed(Exception):
    """Planning ends here, as if its process did."""


@pytest.fixture
def move(stack: Stack, tmp_path: Path) -> Callable[[], None]:
    """Let finishing@production point at a new version, and retire all older ones."""
    publish_chain(stack)

    def publish_next() -> None:
        with stack.engine("publisher").begin() as connection:
            earlier = [row.version for row in releases.list_releases(connection) if row.name == "finishing"]
        made = make_tiny_release(tmp_path / f"{len(earlier)}", seed=len(earlier), name="finishing")
        with stack.engine("publisher").begin() as connection:
            name, version = releases.publish(connection, stack.store(), made)
            aliases.promote(connection, f"{name}@{version}", "production")
        with stack.engine("migrator").begin() as connection:
            for version in earlier:
                retirement.retire(connection, f"finishing@{version}")

    publish_next()
    return publish_next


def plan(stack: Stack, engine: Engine, worker_id: uuid.UUID, tick: Callable[[], None]) -> None:
    (lease,) = claim(engine, worker_id, "plan")
    try:
        assert planner.plan_job(engine, stack.store(), lease, tick=tick) is None
    except Crashed:
        with engine.begin() as connection:
            connection.execute(text("UPDATE work SET state = 'ready', owner = NULL, lease_until = NULL"))


def crash() -> None:
    raise Crashed


def last_stage(stack: Stack, job: uuid.UUID) -> str:
    with stack.engine("submitter").connect() as connection:
        query = text("SELECT model FROM job_stages WHERE job_id = :id AND is_last")
        return str(connection.execute(query, {"id": job}).scalar_one())


@pytest.mark.long
@pytest.mark.usefixtures("small_batches")
def test_a_chain_keeps_the_releases_of_its_first_batch(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, move: Callable[[], None]
) -> None:
    job = submit_chain(stack, REQUEST)
    plan(stack, engine, worker_id, tick=crash)
    assert (stack.job(job).planned_to, last_stage(stack, job)) == (32, "finishing@1")
    move()
    with stack.process("dispatcher"), stack.process("worker"):
        row = stack.wait(job)
        later = submit_chain(stack, {**REQUEST, "images_per_item": 1})
        assert (row.state, row.succeeded) == ("succeeded", 40)
        assert stack.wait(later).state == "succeeded"
    assert (last_stage(stack, job), last_stage(stack, later)) == ("finishing@1", "finishing@2")


def test_a_chain_of_which_no_batch_is_planned_begins_anew(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, move: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stages were recorded, and its process ended before the first batch."""
    job = submit_chain(stack, REQUEST)
    with monkeypatch.context() as patch:
        patch.setattr(planning, "record_batch", lambda *_, **__: crash())
        plan(stack, engine, worker_id, tick=lambda: None)
    first = last_stage(stack, job)
    move()
    plan(stack, engine, worker_id, tick=lambda: None)
    assert (stack.job(job).state, stack.job(job).planned_to) == ("planned", 40)
    assert last_stage(stack, job) != first


def test_a_chain_of_a_retired_release_is_rejected_in_words(
    stack: Stack, dispatcher: Process, move: Callable[[], None]
) -> None:
    move()
    job = stack.wait(submit_chain(stack, {**REQUEST, "then": [UP, {**FINISH, "model": "finishing@1"}]}))
    assert job.state == "rejected"
    assert job.reason.startswith("then[1].model: finishing@1 was retired on 2")
