"""A job that a worker cannot read fails with a reason, and the worker goes on."""

import time
import uuid

from sqlalchemy import text

from tests.support.job_queue import submit_planned
from tests.support.stack import Stack

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 4, "steps": 2}

# What happens to a planned job, and what its images then say.
DAMAGES = [
    ("plan = plan - 'format'", "KeyError: 'format'"),
    ("plan = plan - 'images_per_item'", "KeyError: 'images_per_item'"),
    ('plan = plan || \'{"format": "gif"}\'', "KeyError: 'gif'"),
    ("plan = '[]'", "its "),
    ("release_id = NULL", "its job cannot be read: NoResultFound"),
]


def end_delays(stack: Stack, job_id: uuid.UUID) -> None:
    """Let the job's next attempts begin at once: how long they are delayed is not tested here."""
    statement = text("UPDATE work SET run_after = now() WHERE job_id = :id AND state = 'delayed'")
    with stack.engine("migrator").begin() as connection:
        connection.execute(statement, {"id": job_id})


def test_a_damaged_job_fails_alone_and_with_a_reason(stack: Stack) -> None:
    """Its third attempt fails its images. The worker serves the next job all the time."""
    worker_id = uuid.uuid4()
    damaged = {}
    for damage, reason in DAMAGES:
        job_id = submit_planned(stack, stack.engine("migrator"), worker_id)
        damaged[job_id] = reason
        with stack.engine("migrator").begin() as connection:
            connection.execute(text(f"UPDATE jobs SET {damage} WHERE id = :id"), {"id": job_id})
    with stack.process("worker") as worker:
        worker.wait_for("serves queues")
        with stack.process("dispatcher"):
            good = stack.wait(stack.submit(REQUEST))
            assert (good.state, good.succeeded) == ("succeeded", 4)
            for job_id, reason in damaged.items():
                deadline = time.monotonic() + 60
                while len(rows := stack.outputs(job_id)) < 40:  # finalizing reads the plan too, and may fail
                    assert time.monotonic() < deadline, (reason, len(rows), worker.log.read_text()[-2000:])
                    end_delays(stack, job_id)
                    time.sleep(0.1)
                assert all(reason in row.error for row in rows), (reason, rows[0].error)
            assert worker.child.poll() is None
