"""Only the holder of a lease settles its images, each of them once; errors are retried."""

import threading
import uuid

import pytest
from sqlalchemy import Engine, text

from services.job_queue import claims, jobs, leases, outputs
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.outputs import Output
from services.job_queue.states import WorkState
from tests.support.job_queue import claim, job_state, rescue, settle, settle_shard, submit_planned, wake_delayed
from tests.support.stack import Stack


def test_a_stale_holder_cannot_settle_finish_or_release(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    stale = claim(engine, worker_id, count=1)[0]
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET heartbeat_at = now() - interval '1 hour'"))
        ready, failed = rescue(connection, stale_s=30)
        assert ([lease.id for lease in ready], failed) == ([stale.id], [])
        connection.execute(text("UPDATE workers SET heartbeat_at = now()"))
    fresh = claim(engine, worker_id, count=1)[0]
    assert fresh.id == stale.id
    assert fresh.token != stale.token
    for write in (
        lambda c: settle(c, stale, [Output(0, 0, 5, "k", "0" * 64, 1, "p")]),
        lambda c: settle(c, stale, [], is_last=True),
        lambda c: jobs.end_shard(c, stale, WorkState.CANCELLED, None),
        lambda c: jobs.fail_shard_attempt(c, stale, "x"),
        lambda c: jobs.lose_shard(c, stale, "x"),
        lambda c: leases.fail_attempt(c, stale, "x"),
        lambda c: leases.release_lease(c, stale),
        lambda c: claims.isolate(c, stale),
    ):
        with pytest.raises(LeaseLost), engine.begin() as connection:
            write(connection)
    settle_shard(engine, fresh)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 16


def test_an_index_is_recorded_once_and_counted_once(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    lease = claim(engine, worker_id, count=1)[0]
    for sha in ("0" * 64, "1" * 64):
        with engine.begin() as connection:
            settle(connection, lease, [Output(0, 0, 5, "k", sha, 1, "p")])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT sha256 FROM outputs WHERE job_id = :id"), {"id": job_id}) == "0" * 64
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 1
        assert outputs.settled_indices(connection, job_id, lease.start, lease.stop) == {0}


def test_finalizing_opens_once_even_when_the_last_shards_finish_at_once(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    for _ in range(10):
        job_id = submit_planned(stack, engine, worker_id)
        leases = claim(engine, worker_id)
        barrier = threading.Barrier(len(leases))

        def finish(lease: Lease, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            settle_shard(engine, lease)

        threads = [threading.Thread(target=finish, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with engine.connect() as connection:
            assert job_state(connection, job_id) == "finalizing"
        (finalize,) = claim(engine, worker_id, "finalize")
        with engine.begin() as connection:
            assert jobs.end_job(connection, finalize, "manifest") == "succeeded"


def test_an_error_is_retried_twice_after_pauses_and_then_fails_its_images(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    bad, *good = claim(engine, worker_id)
    for lease in good:
        settle_shard(engine, lease)
    for attempt in range(leases.MAX_ATTEMPTS):
        with engine.begin() as connection:
            jobs.fail_shard_attempt(connection, bad, "boom")
        if attempt + 1 < leases.MAX_ATTEMPTS:
            assert claim(engine, worker_id) == [], "a pause comes first"
            with engine.begin() as connection:
                connection.execute(text("UPDATE work SET run_after = now() WHERE state = 'delayed'"))
                assert wake_delayed(connection) == 1
            (bad,) = claim(engine, worker_id)
    (finalize,) = claim(engine, worker_id, "finalize")
    with engine.begin() as connection:
        assert jobs.end_job(connection, finalize, "manifest") == "partial"
        row = connection.execute(text("SELECT succeeded, failed FROM jobs WHERE id = :id"), {"id": job_id}).one()
        assert (row.succeeded, row.failed) == (24, 16)
        assert connection.scalar(text("SELECT count(*) FROM outputs WHERE error = 'boom'")) == 16


def test_postponed_work_counts_no_attempt(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    submit_planned(stack, engine, worker_id)
    (lease,) = claim(engine, worker_id, count=1)
    with engine.begin() as connection:
        leases.postpone(connection, lease, "S3 is away")
        row = connection.execute(text("SELECT * FROM work WHERE id = :id"), {"id": lease.id}).one()
    assert (row.state, row.attempts, row.losses, row.error) == ("delayed", 0, 0, "S3 is away")
