"""Work whose worker died is claimed again; work that kills its workers is isolated."""

import uuid

from sqlalchemy import Engine, text

from services.job_queue import claims, jobs, leases, processes
from services.job_queue.leases import Lease
from tests.support.job_queue import REQUEST, claim, rescue, settle_shard, submit_planned
from tests.support.stack import Stack


def expire_leases(engine: Engine) -> tuple[list[Lease], list[Lease]]:
    """Expire all leases, as if their owners had died, and rescue the work."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET lease_until = now() - interval '1 s' WHERE state = 'leased'"))
        return rescue(connection, stale_s=30)


def test_a_lease_lasts_as_long_as_its_work_can_take(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    """A thousand guided steps of sixteen images are not taken from a slow device that is alive."""
    submit_planned(stack, engine, worker_id)
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET cost = 32000 WHERE kind = 'sample'"))
    claim(engine, worker_id)
    with engine.connect() as connection:
        lasts = connection.scalars(text("SELECT lease_until - now() FROM work WHERE state = 'leased'")).all()
    assert {round(duration.total_seconds(), -2) for duration in lasts} == {900 + 5 * 32_000}


def test_work_lost_together_counts_no_attempt_and_becomes_a_suspect(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    submit_planned(stack, engine, worker_id)
    for loss in range(1, 5):
        held = [lease for _ in range(3) for lease in claim(engine, worker_id)]  # A suspect is claimed alone.
        assert [lease.suspect for lease in held] == [loss > leases.MAX_LOSSES] * 3
        again, failed = expire_leases(engine)
        assert (len(again), failed) == (3, [])
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT attempts, losses FROM work WHERE kind = 'sample'")).all()
        assert [tuple(row) for row in rows] == [(0, loss)] * 3


def test_one_image_that_kills_its_process_fails_alone(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    """Image 21 kills each process that samples it. Its shard is cut until the image is alone; all others succeed."""
    job_id = submit_planned(stack, engine, worker_id)
    crashes = 0
    while held := claim(engine, worker_id, count=1):
        (lease,) = held
        if lease.suspect:
            with engine.begin() as connection:
                claims.isolate(connection, lease)
        if lease.start <= 21 < lease.stop:
            crashes += 1
            _, failed = expire_leases(engine)
            for one in failed:
                with engine.begin() as connection:
                    jobs.fail_shard(connection, one, "it kills")
        else:
            settle_shard(engine, lease)
    assert crashes == leases.MAX_LOSSES + 4 + leases.MAX_ATTEMPTS  # four cuts leave one of 16 images
    (finalize,) = claim(engine, worker_id, "finalize")
    with engine.begin() as connection:
        assert jobs.end_job(connection, finalize, "manifest") == "partial"
        assert connection.scalars(text("SELECT index FROM outputs WHERE error IS NOT NULL")).all() == [21]
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 39


def test_a_suspect_of_planning_is_claimed_alone(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    for _ in range(3):
        stack.submit(REQUEST)
    for _ in range(leases.MAX_LOSSES):
        assert len(claim(engine, worker_id, "plan")) == 3
        expire_leases(engine)
    for _ in range(leases.MAX_ATTEMPTS):  # now each crashes alone
        for _ in range(3):
            assert len(claim(engine, worker_id, "plan")) == 1
        again, failed = expire_leases(engine)
    assert (again, len(failed)) == ([], 3)


def test_a_retired_process_returns_its_work_to_the_queue(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    submit_planned(stack, engine, worker_id)
    claim(engine, worker_id)
    with engine.begin() as connection:
        processes.retire(connection, worker_id)
        rows = connection.execute(text("SELECT state, attempts, losses FROM work WHERE kind = 'sample'")).all()
    assert [tuple(row) for row in rows] == [("ready", 0, 0)] * 3


def test_a_lease_that_its_process_does_not_know_is_released(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    """The answer to a claim was lost with the connection. A fresh claim is left alone."""
    submit_planned(stack, engine, worker_id)
    known, lost = claim(engine, worker_id, count=2)
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET lease_until = lease_until - interval '20 s' WHERE state = 'leased'"))
    (fresh,) = claim(engine, worker_id, count=1)
    with engine.begin() as connection:
        assert processes.release_forgotten_leases(connection, worker_id, [known.token]) == 1
        rows = connection.execute(text("SELECT id, state, attempts, losses FROM work WHERE kind = 'sample'")).all()
    assert {row.id: row.state for row in rows} == {known.id: "leased", lost.id: "ready", fresh.id: "leased"}
    assert all((row.attempts, row.losses) == (0, 0) for row in rows)
