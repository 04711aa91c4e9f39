"""A tenant sees how far its job is, and why it waits."""

import re
import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from services.job_queue import clients, processes
from services.job_queue.states import ProcessKind
from tests.support.commands import Darkroom
from tests.support.stack import Process, Stack
from tests.support.tenants import make_tenant

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 4, "steps": 2}


def progress(stack: Stack, job_id: uuid.UUID) -> clients.Progress:
    with stack.engine("submitter").connect() as connection:
        found = clients.find_progress(connection, job_id)
    assert found is not None
    return found


def register(engine: Engine, kind: ProcessKind, queues: list[str] | None = None) -> None:
    with engine.begin() as connection:
        processes.register(connection, kind, queues)


def forget_processes(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET stopped_at = now() WHERE stopped_at IS NULL"))


def test_each_reason_to_wait_is_told(stack: Stack, engine: Engine) -> None:
    forget_processes(engine)
    later = stack.submit(REQUEST, run_after=datetime.now(UTC) + timedelta(days=1))
    assert str(progress(stack, later).waits_because).startswith("it starts at 20")
    job = stack.submit(REQUEST)
    assert progress(stack, job).waits_because == "no dispatcher runs"
    register(engine, ProcessKind.DISPATCHER)
    assert progress(stack, job).waits_because == 'no worker serves queue "default"'
    register(engine, ProcessKind.WORKER, ["night"])
    assert progress(stack, job).waits_because == 'no worker serves queue "default"'
    register(engine, ProcessKind.WORKER, ["night", "default"])
    assert progress(stack, job).waits_because == "it will be planned"
    with engine.begin() as connection:
        connection.execute(text("UPDATE queues SET paused = true WHERE name = 'default'"))
    assert progress(stack, job).waits_because == 'queue "default" is paused'
    with engine.begin() as connection:
        connection.execute(text("UPDATE queues SET paused = false WHERE name = 'default'"))
        connection.execute(text("UPDATE workers SET heartbeat_at = now() - interval '31 seconds'"))
    assert progress(stack, job).waits_because == "no dispatcher runs"
    with stack.engine("submitter").begin() as connection:
        clients.cancel_jobs(connection, [job])
    assert progress(stack, job).waits_because == "it is being cancelled"
    forget_processes(engine)


def test_a_failed_attempt_says_when_it_is_repeated_and_not_its_error(stack: Stack, engine: Engine) -> None:
    forget_processes(engine)
    register(engine, ProcessKind.DISPATCHER)
    register(engine, ProcessKind.WORKER)
    job = stack.submit(REQUEST)
    delayed = text("""
        UPDATE work SET state = 'delayed', run_after = now() + interval '1 hour', error = 's3.internal does not answer'
        WHERE job_id = :id RETURNING date_trunc('second', run_after)
    """)
    with engine.begin() as connection:
        connection.execute(delayed, {"id": job})
    reason = str(progress(stack, job).waits_because)
    assert re.fullmatch(r"an attempt failed, and is repeated at 20[-0-9]+ [:0-9]+\+00", reason), reason
    with engine.begin() as connection:  # other work of the job is ready
        copied = "INSERT INTO work (job_id, kind, start, stop, queue, tenant, priority, rank, cost, state)"
        chosen = "SELECT job_id, 'sample', 0, 1, queue, tenant, priority, rank, 1, 'ready' FROM work WHERE job_id = :id"
        connection.execute(text(f"{copied} {chosen}"), {"id": job})
    assert progress(stack, job).waits_because == "it will be planned"
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM work WHERE job_id = :id"), {"id": job})
        connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": job})
    forget_processes(engine)


def test_other_tenants_jobs_are_not_explained(stack: Stack, engine: Engine) -> None:
    theirs = make_tenant(stack, f"t{uuid.uuid4().hex[:8]}").submit(run_after=datetime.now(UTC) + timedelta(days=1))
    with stack.engine("submitter").connect() as connection:
        assert clients.find_progress(connection, theirs) is None
        assert connection.scalar(text("SELECT why_waiting(:id)"), {"id": theirs}) is None


def test_the_rate_and_the_end_of_a_job(stack: Stack, engine: Engine) -> None:
    forget_processes(engine)
    register(engine, ProcessKind.DISPATCHER)
    register(engine, ProcessKind.WORKER)
    job = stack.submit(REQUEST)
    assert progress(stack, job).images_per_s is None
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE jobs SET state = 'running', total = 40, succeeded = 7, failed = 3,
                    started_at = clock_timestamp() - interval '20 seconds' WHERE id = :id
            """),
            {"id": job},
        )
    found = progress(stack, job)
    assert (found.settled, found.total) == (10, 40)
    assert found.images_per_s is not None
    assert 0.4 < found.images_per_s <= 0.5
    assert found.expected_end is not None
    assert 55 < (found.expected_end - datetime.now(UTC)).total_seconds() < 75
    for stop, go in (
        ("UPDATE jobs SET paused = true WHERE id = :id", "UPDATE jobs SET paused = false WHERE id = :id"),
        ("UPDATE queues SET paused = true", "UPDATE queues SET paused = false"),
    ):
        with engine.begin() as connection:
            connection.execute(text(stop), {"id": job})
        assert progress(stack, job).expected_end is None
        with engine.begin() as connection:
            connection.execute(text(go), {"id": job})
        assert progress(stack, job).expected_end is not None
    forget_processes(engine)
    stopped = progress(stack, job)
    assert (stopped.expected_end, stopped.waits_because) == (None, 'no worker serves queue "default"')
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET revision = 2 WHERE id = :id"), {"id": job})
    assert progress(stack, job).expected_end is None


def test_watch_says_at_once_that_nobody_serves_the_queue(
    stack: Stack, engine: Engine, darkroom: Darkroom, dispatcher: Process
) -> None:
    job = stack.submit(REQUEST, deadline=datetime.now(UTC) + timedelta(seconds=6))
    watched = darkroom("jobs", "watch", str(job))
    assert 'The job waits: no worker serves queue "default".' in watched.stderr
    assert watched.stderr.count("The job waits") == 1
    assert watched.returncode == 3
