"""The queue's SQL on real Postgres: leases, fencing, retries, rescue, and the end of a job."""

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from services import job_queue, planner
from services.job_queue import Lease, LeaseLost, OutputRecord
from tests.conftest import Stack

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 40, "steps": 2, "seed": 5}


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    """An empty queue, before and after, with the rights of its owner."""
    engine = stack.engine("migrator")
    empty(engine)
    yield engine
    empty(engine)


def empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outputs"))
        connection.execute(text("DELETE FROM jobs"))


@pytest.fixture
def worker(engine: Engine) -> uuid.UUID:
    with engine.begin() as connection:
        return job_queue.register(connection, "worker")


def claim(engine: Engine, worker: uuid.UUID, kind: str = "sample", count: int = 100) -> list[Lease]:
    with engine.begin() as connection:
        return job_queue.claim(connection, worker, sampling=kind == "sample", queues=["default"], count=count)


def submit_planned(stack: Stack, engine: Engine, worker: uuid.UUID, **columns: Any) -> uuid.UUID:
    """A job with three shards ready: images 0-15, 16-31, 32-39."""
    job_id = stack.submit(REQUEST, **columns)
    (lease,) = [lease for lease in claim(engine, worker, "plan") if lease.job_id == job_id]
    with engine.begin() as connection:
        assert planner.plan_job(connection, lease) is None
    return job_id


def state(connection: Connection, job_id: uuid.UUID) -> str:
    return str(connection.scalar(text("SELECT state FROM jobs WHERE id = :id"), {"id": job_id}))


def settle(engine: Engine, lease: Lease) -> None:
    records = [OutputRecord(i, 0, 5 + i, f"k{i}", "0" * 64, 1, "p") for i in range(lease.start, lease.stop)]
    with engine.begin() as connection:
        job_queue.record(connection, lease, records)
        job_queue.finish_shard(connection, lease)


def test_planning_cuts_a_job_into_shards_with_their_cost(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    leases = claim(engine, worker)
    assert [(lease.start, lease.stop) for lease in leases] == [(0, 16), (16, 32), (32, 40)]
    with engine.connect() as connection:
        costs = connection.scalars(text("SELECT cost FROM work WHERE kind = 'sample' ORDER BY id")).all()
    assert costs == [16 * 4, 16 * 4, 8 * 4]  # two steps, each with and without the condition


def test_no_work_is_leased_twice_by_claimers_at_once(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    for _ in range(10):
        submit_planned(stack, engine, worker)
    taken: list[Lease] = []
    barrier = threading.Barrier(8)

    def claimer() -> None:
        barrier.wait()
        while mine := claim(engine, worker, count=1):
            taken.extend(mine)

    threads = [threading.Thread(target=claimer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 30
    assert len({lease.id for lease in taken}) == 30
    assert len({lease.token for lease in taken}) == 30


def test_higher_priority_first_then_older_first(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    low = submit_planned(stack, engine, worker, priority=-1)
    old, young = (submit_planned(stack, engine, worker) for _ in range(2))
    urgent = submit_planned(stack, engine, worker, priority=5)
    order = []
    while leases := claim(engine, worker, count=1):
        order.append(leases[0].job_id)
    assert list(dict.fromkeys(order)) == [urgent, old, young, low]


def test_a_paused_queue_is_not_claimed_from(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    with engine.begin() as connection:
        connection.execute(text("UPDATE queues SET paused = true"))
    try:
        assert claim(engine, worker) == []
    finally:
        with engine.begin() as connection:
            connection.execute(text("UPDATE queues SET paused = false"))
    assert len(claim(engine, worker)) == 3


def test_a_stale_holder_can_neither_record_nor_finish_nor_release(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker)
    stale = claim(engine, worker, count=1)[0]
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET heartbeat_at = now() - interval '1 hour'"))
        ready, failed = job_queue.rescue(connection, stale_s=30)
        assert ([lease.id for lease in ready], failed) == ([stale.id], [])
        connection.execute(text("UPDATE workers SET heartbeat_at = now()"))
    fresh = claim(engine, worker, count=1)[0]
    assert fresh.id == stale.id
    assert fresh.token != stale.token
    for write in (
        lambda c: job_queue.record(c, stale, [OutputRecord(0, 0, 5, "k", "0" * 64, 1, "p")]),
        lambda c: job_queue.finish_shard(c, stale),
        lambda c: job_queue.retry_later(c, stale, "x"),
    ):
        with pytest.raises(LeaseLost), engine.begin() as connection:
            write(connection)
    with engine.begin() as connection:
        job_queue.release(connection, stale)  # harmless
    settle(engine, fresh)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 16


def test_an_index_is_recorded_once_and_counted_once(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    job_id = submit_planned(stack, engine, worker)
    lease = claim(engine, worker, count=1)[0]
    for sha in ("0" * 64, "1" * 64):
        with engine.begin() as connection:
            job_queue.record(connection, lease, [OutputRecord(0, 0, 5, "k", sha, 1, "p")])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT sha256 FROM outputs WHERE job_id = :id"), {"id": job_id}) == "0" * 64
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 1
        assert job_queue.recorded(connection, lease) == {0}


def test_the_last_shard_opens_finalizing_once_even_when_two_finish_at_once(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    for _ in range(10):
        job_id = submit_planned(stack, engine, worker)
        leases = claim(engine, worker)
        barrier = threading.Barrier(len(leases))

        def finish(lease: Lease, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            settle(engine, lease)

        threads = [threading.Thread(target=finish, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with engine.connect() as connection:
            assert state(connection, job_id) == "finalizing"
        (finalize,) = claim(engine, worker, "finalize")
        with engine.begin() as connection:
            assert job_queue.finalized(connection, finalize, "manifest") == "succeeded"


def test_an_error_is_tried_three_times_with_pauses_and_then_fails_its_images(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker)
    bad, *good = claim(engine, worker)
    for lease in good:
        settle(engine, lease)
    for attempt in range(job_queue.MAX_ATTEMPTS):
        with engine.begin() as connection:
            again = job_queue.retry_later(connection, bad, "boom")
            if not again:
                job_queue.fail_images(connection, bad, "boom")
        assert again == (attempt + 1 < job_queue.MAX_ATTEMPTS)
        if again:
            assert claim(engine, worker) == [], "a pause comes first"
            with engine.begin() as connection:
                connection.execute(text("UPDATE work SET run_after = now() WHERE state = 'delayed'"))
                assert job_queue.wake_delayed(connection) == 1
            (bad,) = claim(engine, worker)
    (finalize,) = claim(engine, worker, "finalize")
    with engine.begin() as connection:
        assert job_queue.finalized(connection, finalize, "manifest") == "partial"
        row = connection.execute(text("SELECT succeeded, failed FROM jobs WHERE id = :id"), {"id": job_id}).one()
        assert (row.succeeded, row.failed) == (24, 16)
        assert connection.scalar(text("SELECT count(*) FROM outputs WHERE error = 'boom'")) == 16


def test_work_that_is_lost_again_and_again_fails(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    for loss in range(1, job_queue.MAX_LOSSES + 1):
        claim(engine, worker)
        with engine.begin() as connection:
            connection.execute(text("UPDATE work SET lease_until = now() - interval '1 s' WHERE state = 'leased'"))
            ready, failed = job_queue.rescue(connection, stale_s=30)
        assert (len(ready), len(failed)) == ((3, 0) if loss < job_queue.MAX_LOSSES else (0, 3))


def test_a_retired_process_gives_its_work_back_untouched(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    claim(engine, worker)
    with engine.begin() as connection:
        job_queue.retire(connection, worker)
        rows = connection.execute(text("SELECT state, attempts, losses FROM work WHERE kind = 'sample'")).all()
    assert [tuple(row) for row in rows] == [("ready", 0, 0)] * 3


def test_a_hint_is_sent_once_and_again_only_when_it_is_old(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    with engine.begin() as connection:
        assert job_queue.queues_to_hint(connection) == ["default"]
        assert job_queue.queues_to_hint(connection) == []
        connection.execute(text("UPDATE work SET dispatched_at = now() - interval '1 minute'"))
        assert job_queue.queues_to_hint(connection) == ["default"]


@pytest.mark.parametrize(
    ("statement", "index"),
    [(job_queue.CLAIM_SAMPLING, "work_to_sample"), (job_queue.CLAIM_PLANNING, "work_to_dispatch")],
)
def test_the_claim_reads_its_index_in_order(
    stack: Stack, engine: Engine, worker: uuid.UUID, statement: Any, index: str
) -> None:
    """A regression test of the plan: a claim must neither read settled work nor sort what is ready."""
    job_id = submit_planned(stack, engine, worker)
    with engine.begin() as connection:
        for kind, state_, count in (("sample", "done", 30_000), ("sample", "ready", 20_000), ("plan", "ready", 5_000)):
            connection.execute(
                text("INSERT INTO work (job_id, kind, queue, state, stop) "
                     "SELECT :id, :kind, 'default', :state, 1 FROM generate_series(1, :count)"),
                {"id": job_id, "kind": kind, "state": state_, "count": count},
            )  # fmt: skip
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE work"))
        explained = connection.execute(
            text(f"EXPLAIN {statement.text}"), {"queues": ["default"], "worker": worker, "count": 1}
        )
        plan = "\n".join(explained.scalars())
    assert f"Index Scan using {index} on work" in plan
    assert "Seq Scan on work" not in plan
    assert "Sort" not in plan
