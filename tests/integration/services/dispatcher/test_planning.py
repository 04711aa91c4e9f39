"""Planning in batches: interrupted, stopped or failed between two of them, it loses and doubles no image."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import finalizer, planner
from services.job_queue import jobs, leases
from services.job_queue.leases import Lease, LeaseLost
from tests.support.job_queue import call_function, claim, end_shards, job_state, settle_shard, stop_jobs
from tests.support.stack import Stack

pytestmark = pytest.mark.usefixtures("small_batches")

REQUEST = {"items": [{"class_label": 1}] * 50, "images_per_item": 2, "steps": 1, "guidance_scale": 1}
LINES = [
    json.dumps({"class_label": 1, "id": f"line-{number}"}) if number % 7 else "{}" for number in range(50)
] + ['{"class_label": 2, "id": "line-1"}']  # fmt: skip


class Interrupted(Exception):
    """Stands for a crash between two batches."""


class After:
    """A `tick` that runs an action at the n-th batch."""

    def __init__(self, batches: int, action: Callable[[], Any]) -> None:
        self.left, self.action = batches, action

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def crash() -> None:
    raise Interrupted


def submit(stack: Stack, engine: Engine, worker_id: uuid.UUID, request: dict[str, Any] = REQUEST) -> Lease:
    """Submit a job and claim its planning."""
    job_id = stack.submit(request)
    (lease,) = [lease for lease in claim(engine, worker_id, "plan") if lease.job_id == job_id]
    return lease


def claim_again(engine: Engine, worker_id: uuid.UUID, lease: Lease) -> Lease:
    """Claim the planning of a dispatcher that has died."""
    with engine.begin() as connection:
        leases.release_lease(connection, lease)
    (again,) = claim(engine, worker_id, "plan")
    return again


def planned_images(engine: Engine, job_id: uuid.UUID) -> list[int]:
    """The images of the job's shards, in order."""
    query = text("SELECT start, stop FROM work WHERE job_id = :id AND kind = 'sample' ORDER BY start")
    with engine.connect() as connection:
        return [i for start, stop in connection.execute(query, {"id": job_id}) for i in range(start, stop)]


def test_the_first_images_are_sampled_while_others_are_planned(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    lease = submit(stack, engine, worker_id)

    def sample() -> None:
        shards = claim(engine, worker_id)
        assert [(shard.start, shard.stop) for shard in shards] == [(0, 16), (16, 32)]
        with engine.begin() as connection:
            assert [job.waited is None for job in jobs.begin_shards(connection, shards)] == [False, True]
        for shard in shards:
            settle_shard(engine, shard)
        assert stack.job(lease.job_id).state == "running", "finalizing must wait for the rest of the plan"

    assert planner.plan_job(engine, stack.store(), lease, After(1, sample)) is None
    row = stack.job(lease.job_id)
    assert (row.state, row.total, row.planned_to, row.succeeded) == ("running", 100, 100, 32)
    assert planned_images(engine, lease.job_id) == list(range(100))
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    assert stack.job(lease.job_id).state == "finalizing"


def test_the_last_batch_opens_finalizing_if_everything_else_has_ended(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    stack.upload("tail.jsonl", b'{"class_label": 1}\n' * 32 + b"{}\n" * 3)
    lease = submit(stack, engine, worker_id, {"input_uri": "inputs/default/tail.jsonl", "steps": 1})

    def sample() -> None:
        for shard in claim(engine, worker_id):
            settle_shard(engine, shard)

    assert planner.plan_job(engine, stack.store(), lease, After(1, sample)) is None
    row = stack.job(lease.job_id)
    assert (row.state, row.succeeded, row.failed) == ("finalizing", 32, 3)


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_an_interrupted_planning_goes_on_where_it_stopped(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, batches: int
) -> None:
    lease = submit(stack, engine, worker_id)
    with pytest.raises(Interrupted):
        planner.plan_job(engine, stack.store(), lease, After(batches, crash))
    plan = stack.job(lease.job_id).plan
    again = claim_again(engine, worker_id, lease)
    with pytest.raises(LeaseLost):
        planner.plan_job(engine, stack.store(), lease)
    assert planner.plan_job(engine, stack.store(), again) is None
    assert planned_images(engine, lease.job_id) == list(range(100))
    assert stack.job(lease.job_id).plan == plan, "its seed was drawn once"


def test_an_interrupted_planning_of_lines_keeps_their_errors_and_ids(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    stack.upload("lines.jsonl", "\n".join(LINES).encode())
    request = {"input_uri": "inputs/default/lines.jsonl", "images_per_item": 3, "steps": 1}
    lease = submit(stack, engine, worker_id, request)
    with pytest.raises(Interrupted):
        planner.plan_job(engine, stack.store(), lease, After(2, crash))
    assert 0 < stack.job(lease.job_id).planned_to < 153
    again = claim_again(engine, worker_id, lease)
    assert planner.plan_job(engine, stack.store(), again) is None
    bad = [*range(0, 50, 7), 50]
    rows = stack.outputs(lease.job_id)
    assert [(row.index, row.item) for row in rows] == [(3 * item + k, item) for item in bad for k in range(3)]
    assert rows[-1].error == "line 51: id: 'line-1' is not unique; permitted: a different id in each line"
    missing = set(range(153)) - set(planned_images(engine, lease.job_id))
    assert missing <= {row.index for row in rows}
    assert stack.job(lease.job_id).failed == len(rows)


def test_a_job_that_is_cancelled_is_planned_no_further(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    lease = submit(stack, engine, worker_id)

    def cancel() -> None:
        call_function(stack, "cancel_job", lease.job_id)
        with engine.begin() as connection:
            stop_jobs(connection)

    assert planner.plan_job(engine, stack.store(), lease, After(1, cancel)) == "cancelled"
    assert planned_images(engine, lease.job_id) == list(range(32))
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "cancelled"
    assert stack.outputs(lease.job_id) == []


def test_a_deadline_in_planning_fails_the_images_that_are_not_planned(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    lease = submit(stack, engine, worker_id)

    def pass_deadline() -> None:
        settle_shard(engine, claim(engine, worker_id, count=1)[0])
        with engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET deadline = now()"))
        with engine.begin() as connection:
            stop_jobs(connection)

    reason = planner.plan_job(engine, stack.store(), lease, After(1, pass_deadline))
    assert reason is not None
    assert reason.startswith("its deadline, ")
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "partial"
    row = stack.job(lease.job_id)
    assert (row.succeeded, row.failed, row.reason) == (16, 84, f"{reason} (84 of 100 images)")
    assert [output.index for output in stack.outputs(lease.job_id)] == list(range(100))


def test_a_deadline_while_lines_are_counted_ends_the_job(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "CHECK_S", 0.0)
    stack.upload("slow.jsonl", b"{}\n" * 100)
    lease = submit(stack, engine, worker_id, {"input_uri": "inputs/default/slow.jsonl"})
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET deadline = now()"))
    assert planner.plan_job(engine, stack.store(), lease)
    row = stack.job(lease.job_id)
    assert (row.state, row.plan, row.reason[:14]) == ("failed", None, "its deadline, ")


def test_a_planning_that_fails_for_good_keeps_what_it_has_planned(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    lease = submit(stack, engine, worker_id)
    with pytest.raises(Interrupted):
        planner.plan_job(engine, stack.store(), lease, After(2, crash))
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET attempts = 2 WHERE id = :id"), {"id": lease.id})
    again = claim_again(engine, worker_id, lease)
    with engine.begin() as connection:
        assert not leases.fail_attempt(connection, again, "boom")
        jobs.fail_job(connection, lease.job_id, "planning failed")
        assert job_state(connection, lease.job_id) == "planned"
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "partial"
    row = stack.job(lease.job_id)
    assert (row.succeeded, row.failed, row.reason) == (64, 36, "planning failed")
    assert stack.outputs(lease.job_id)[-1].error == "planning failed"


def test_a_new_revision_plans_only_shards_that_miss_images(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    lease = submit(stack, engine, worker_id)
    assert planner.plan_job(engine, stack.store(), lease) is None
    finalize = end_shards(engine, worker_id, lambda shard: shard.start != 48)
    assert finalizer.finalize(engine, stack.store(), finalize) == "partial"
    assert call_function(stack, "retry_job", lease.job_id) == 2
    (again,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), again) is None
    (shard,) = claim(engine, worker_id)
    assert (shard.start, shard.stop) == (48, 64)


def test_s3_is_read_outside_of_transactions(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    stack.upload("quiet.jsonl", "\n".join(LINES).encode())
    lease = submit(stack, engine, worker_id, {"input_uri": "inputs/default/quiet.jsonl", "steps": 1})
    store = stack.store()
    calls: list[tuple[str, int]] = []

    def record(event_name: str, **_: Any) -> None:
        calls.append((event_name, engine.pool.checkedout()))  # type: ignore[attr-defined]

    store.client.meta.events.register("before-send.s3", record)
    assert planner.plan_job(engine, store, lease) is None
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    (finalize,) = claim(engine, worker_id, "finalize")
    finalizer.finalize(engine, store, finalize)
    assert len(calls) > 6
    assert {connections for _, connections in calls} == {0}
