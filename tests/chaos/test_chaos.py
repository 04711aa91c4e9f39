"""Jobs complete although workers, dispatchers and servers are killed, stopped and cut off.

`make test` runs a few faults and `make chaos` two hundred: DARKROOM_CHAOS_FAULTS faults, drawn with the seed
DARKROOM_CHAOS_SEED. At the end every job has succeeded, and every image, also of the earlier stages of chains, exists
once with the bytes of a run without faults. All transactions of the queue are recorded: the model of
docs/queue_model.md must allow each of them.
"""

import hashlib
import os
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.chaos.faults import Chaos
from tests.chaos.proxied import QUICK
from tests.model import recording
from tests.model.replay import Replay
from tests.support.chains import FINISH, UP, publish_chain
from tests.support.stack import Stack, fresh_stack
from tests.support.tenants import administrator

FAULTS = int(os.environ.get("DARKROOM_CHAOS_FAULTS", "8"))
SEED = int(os.environ.get("DARKROOM_CHAOS_SEED", "0"))


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack that the test may damage."""
    with fresh_stack() as stack:
        publish_chain(stack)
        yield stack


def request(draw: random.Random) -> dict[str, Any]:
    """Return a random request of 1 to 64 images and 2 to 12 steps. Half of them are chains of two or three releases."""
    items = [{"class_label": draw.randrange(10)} for _ in range(draw.randint(1, 8))]
    chain = draw.choice([{}, {}, {"then": [UP]}, {"then": [UP, FINISH]}])
    return {
        **chain,
        "items": items,
        "images_per_item": draw.randint(1, 8),
        "steps": draw.randint(2, 12),
        "solver": draw.choice(["ddim", "dpm_solver_2m", "unipc", "euler_ancestral"]),
        "guidance_scale": draw.choice([1.0, 2.0, 3.5]),
        "seed": draw.randrange(2**31),
    }


def submit(stack: Stack, request_: dict[str, Any]) -> uuid.UUID:
    """Submit until Postgres accepts the job. The idempotency key makes it one job."""
    key, model = uuid.uuid4().hex, "small@1" if "then" in request_ else "tiny@production"
    while True:
        try:
            return stack.submit(request_, model, idempotency_key=key)
        except Exception as error:
            if "jobs_tenant_idempotency_key_key" in str(error):
                with stack.engine("submitter").connect() as connection:
                    found = connection.scalar(text("SELECT id FROM jobs WHERE idempotency_key = :key"), {"key": key})
                    return found
            time.sleep(0.3)


@pytest.mark.timeout(FAULTS * 20 + 600)
def test_nothing_is_lost_whatever_dies(own_stack: Stack) -> None:
    draw = random.Random(SEED)
    with administrator(own_stack) as owner:
        recording.install(owner)
    chaos = Chaos(own_stack, draw)
    requests: dict[uuid.UUID, dict[str, Any]] = {}
    try:
        for number in range(FAULTS):
            if number % 3 == 0:
                for _ in range(2):
                    request_ = request(draw)
                    requests[submit(own_stack, request_)] = request_
            chaos.pause(0.2, 3)
            chaos.fault()
        chaos.heal()
        for job_id in requests:
            row = own_stack.wait(job_id, timeout=300)
            assert row.state == "succeeded", (row.state, row.reason, [o.error for o in own_stack.outputs(job_id)][:3])
        wait_for_ends(own_stack)
    except Exception:
        for one in (*chaos.dispatchers, *chaos.workers):
            print(f"--- {one.log.name}", one.log.read_text()[-4000:], sep="\n")
        raise
    finally:
        starts = [one.starts for one in (*chaos.workers, *chaos.dispatchers)]
        print(f"{len(requests)} jobs; faults: {chaos.counts}; starts of workers and dispatchers: {starts}")
        chaos.close()
    found = {job_id: images(own_stack, job_id, 1 + len(one.get("then", ()))) for job_id, one in requests.items()}
    print(f"{sum('then' in one for one in requests.values())} chains")
    check_no_work_is_left(own_stack)
    check_transactions(own_stack)
    assert found == faultless(own_stack, requests)


def stored_images(stack: Stack, job_id: uuid.UUID) -> list[Any]:
    """Return the rows of a job's images by index, after those of the earlier stages of a chain."""
    with stack.engine("submitter").connect() as connection:
        query = text("SELECT * FROM stage_outputs WHERE job_id = :id ORDER BY stage, index")
        return [*connection.execute(query, {"id": job_id}), *stack.outputs(job_id)]


def images(stack: Stack, job_id: uuid.UUID, stages: int) -> list[str]:
    """Return the sha256 of a job's images in all stages.

    Checks that S3 holds these images, the listings and nothing else.
    """
    rows, store = stored_images(stack, job_id), stack.store()
    job = stack.job(job_id)
    assert [row.index for row in rows] == list(range(job.total)) * stages
    prefix = f"outputs/default/{job_id}/"
    listed = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=prefix)
    keys = {entry["Key"] for page in listed for entry in page.get("Contents", [])}
    listings = {f"{prefix}{name}" for name in ("outputs-00000.jsonl", "errors.jsonl", "manifest.json")}
    assert keys == {row.key for row in rows} | listings
    for row in rows:
        assert hashlib.sha256(store.get(row.key)).hexdigest() == row.sha256
    return [row.sha256 for row in rows]


def wait_for_ends(stack: Stack, timeout: float = 120) -> None:
    """Wait until the poisonous jobs have ended too: none of them may be left open for ever."""
    query = "SELECT id, state, reason, deadline::text, run_after::text FROM jobs WHERE finished_at IS NULL"
    deadline = time.monotonic() + timeout
    while True:
        with administrator(stack) as owner:
            left = owner.execute(query).fetchall()
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def check_no_work_is_left(stack: Stack) -> None:
    """Check that no work is left."""
    with stack.engine("migrator").connect() as connection:
        query = "SELECT state, kind FROM work WHERE state NOT IN ('done', 'failed', 'cancelled')"
        left = connection.execute(text(query)).all()
    assert left == []


def check_transactions(stack: Stack) -> None:
    """Replay what was recorded, and record no more."""
    with administrator(stack) as owner:
        replay = Replay(float(QUICK["DARKROOM_STALE_S"]), poisoner="poisoner", pids=recording.pids(owner))
        replay.run(recording.read(owner))
        recording.remove(owner)
    print(f"{replay.transactions} transactions are allowed by the model; their steps: {replay.steps}")
    assert replay.transactions


def faultless(stack: Stack, requests: dict[uuid.UUID, dict[str, Any]]) -> dict[uuid.UUID, list[str]]:
    """Return the sha256 of the images that the same requests give without faults."""
    with stack.process("dispatcher"), stack.process("worker"):
        again = {job_id: submit(stack, request_) for job_id, request_ in requests.items()}
        return {
            job_id: [row.sha256 for row in stored_images(stack, stack.wait(twin, timeout=300).id)]
            for job_id, twin in again.items()
        }
