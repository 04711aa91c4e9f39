"""Start times, deadlines, cancellation, new revisions and the notification of an end."""

import uuid

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from services.dispatcher import finalizer, listings, planner
from services.job_queue import jobs, outputs, stopping
from services.job_queue.outputs import Output
from services.job_queue.states import WorkState
from tests.support.job_queue import (
    REQUEST,
    call_function,
    claim,
    job_state,
    settle,
    settle_shard,
    stop_jobs,
    submit_planned,
    wake_delayed,
)
from tests.support.stack import Stack


def test_a_job_waits_for_its_run_after(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = stack.submit(REQUEST, run_after="2100-01-01")
    with engine.begin() as connection:
        assert wake_delayed(connection) == 0
    assert claim(engine, worker_id, "plan") == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET run_after = now() WHERE job_id = :id"), {"id": job_id})
        assert wake_delayed(connection) == 1
    assert [lease.job_id for lease in claim(engine, worker_id, "plan")] == [job_id]


def test_a_deadline_fails_missing_images_and_keeps_stored_ones(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker_id, deadline="2100-01-01")
    done, held = claim(engine, worker_id, count=2)
    settle_shard(engine, done)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET deadline = now()"))
    with engine.begin() as connection:
        (request,) = stop_jobs(connection)
        assert job_state(connection, job_id) == "running", "one shard is still held"
        assert stopping.find_stop_requests(connection, [job_id]) == [request]
        stopping.stop_shard(connection, held, request)
    (finalize,) = claim(engine, worker_id, "finalize")
    with engine.begin() as connection:
        assert jobs.end_job(connection, finalize, "manifest") == "partial"
        errors = connection.scalars(text("SELECT error FROM outputs WHERE error IS NOT NULL")).all()
    assert len(errors) == 24
    assert all(error.startswith("its deadline, 20") for error in errors)


def test_a_deadline_before_planning_fails_the_job(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = stack.submit(REQUEST, deadline="2020-01-01")
    with engine.begin() as connection:
        stop_jobs(connection)
        row = connection.execute(text("SELECT state, reason FROM jobs WHERE id = :id"), {"id": job_id}).one()
    assert row.state == "failed"
    assert row.reason == "its deadline, 2020-01-01 00:00:00 UTC, has passed"
    assert claim(engine, worker_id, "plan") == []


def test_a_cancelled_job_keeps_its_images_and_is_not_charged_for_others(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM turns"))
    job_id = submit_planned(stack, engine, worker_id)
    done, held = claim(engine, worker_id, count=2)
    settle_shard(engine, done)
    assert call_function(stack, "cancel_job", job_id) == "running"
    with engine.begin() as connection:
        (request,) = stop_jobs(connection)
        stopping.stop_shard(connection, held, request)
        assert stop_jobs(connection) == []
        assert connection.scalar(text("SELECT virtual_time FROM turns WHERE priority = 0")) == 2 * 16 * 4
    (finalize,) = claim(engine, worker_id, "finalize")
    with engine.begin() as connection:
        assert jobs.end_job(connection, finalize, "manifest") == "cancelled"
        assert connection.scalar(text("SELECT count(*) FROM outputs")) == 16


def test_a_submitted_job_is_cancelled_at_once(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = stack.submit(REQUEST)
    call_function(stack, "cancel_job", job_id)
    with engine.begin() as connection:
        stop_jobs(connection)
        assert job_state(connection, job_id) == "cancelled"
    assert claim(engine, worker_id, "plan") == []


def test_a_new_revision_makes_the_missing_images(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    with pytest.raises(DBAPIError, match="only what is partial, failed or cancelled"):
        call_function(stack, "retry_job", job_id)
    for lease in claim(engine, worker_id):
        if lease.start == 16:
            with engine.begin() as connection:
                settle(connection, lease, [Output(20, 0, None, error="bad luck")])
                settled = [Output(i, 0, 5 + i, f"k{i}", "0" * 64, 1, "p") for i in range(16, 32)]
                settle(connection, lease, settled, is_last=True)
        else:
            settle_shard(engine, lease)
    (finalize,) = claim(engine, worker_id, "finalize")
    with engine.begin() as connection:
        assert jobs.end_job(connection, finalize, "manifest") == "partial"
    assert call_function(stack, "retry_job", job_id) == 2
    (lease,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), lease) is None
    (lease,) = claim(engine, worker_id)
    assert (lease.start, lease.stop) == (16, 32)
    with engine.begin() as connection:
        assert set(range(16, 32)) - outputs.settled_indices(connection, job_id, 16, 32) == {20}
        settle(connection, lease, [Output(20, 0, 25, "k20", "1" * 64, 1, "p")], is_last=True)
        revisions = connection.execute(text("SELECT index, revision FROM outputs ORDER BY index")).all()
    assert [tuple(row) for row in revisions] == [(i, 2 if i == 20 else 1) for i in range(40)]
    (finalize,) = claim(engine, worker_id, "finalize")
    with engine.begin() as connection:
        assert jobs.end_job(connection, finalize, "manifest") == "succeeded"


def test_a_long_error_is_cut_in_the_reason_of_its_job(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    for lease in claim(engine, worker_id):
        with engine.begin() as connection:
            jobs.end_shard(connection, lease, WorkState.FAILED, "x" * 3_000)
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "failed"
    assert stack.job(job_id).reason == "x" * (listings.MAX_REASON - 3) + "... (40 of 40 images)"


def test_the_end_of_a_job_is_notified(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN darkroom_job_ended")
        job_id = stack.submit(REQUEST)
        call_function(stack, "cancel_job", job_id)
        with engine.begin() as connection:
            stop_jobs(connection)
        (notice,) = listener.notifies(timeout=60, stop_after=1)
    assert notice.payload == str(job_id)
