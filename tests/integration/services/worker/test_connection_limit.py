"""A server that has no connection left delays jobs and loses nothing."""

import time
from contextlib import ExitStack

import psycopg
import pytest
from sqlalchemy import text

from tests.support.stack import Process, Stack

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 40, "steps": 2, "seed": 5}


def take_all(connections: ExitStack, stack: Stack) -> None:
    """Open connections until the server accepts no more, and raise its error."""
    address = stack.engine("migrator").url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        connections.enter_context(psycopg.connect(address))


def test_jobs_go_on_when_the_server_has_no_connection_left(stack: Stack, dispatcher: Process) -> None:
    with stack.process("worker") as worker, ExitStack() as connections:
        worker.wait_for("serves queues")
        jobs = [stack.submit(REQUEST)]
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            take_all(connections, stack)
        jobs += [stack.submit(REQUEST) for _ in range(3)]
        time.sleep(3)
        connections.close()
        for job_id in jobs:
            row = stack.wait(job_id)
            assert (row.state, row.succeeded) == ("succeeded", 40)
        assert (worker.child.poll(), dispatcher.child.poll()) == (None, None)
    with stack.engine("migrator").connect() as connection:
        query = text("SELECT sum(attempts) + sum(losses) FROM work WHERE job_id = ANY(:jobs)")
        assert connection.scalar(query, {"jobs": jobs}) == 0
