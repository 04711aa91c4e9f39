"""A server that has no connection left delays jobs and processes, and loses nothing."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy import text

from tests.support.commands import Darkroom
from tests.support.stack import Process, Stack

pytestmark = pytest.mark.long

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 40, "steps": 2, "seed": 5}
STARTING = {"dispatcher": "serves", "worker": "serves queues", "console": "The console serves at"}


@contextmanager
def no_connection_left(stack: Stack) -> Iterator[None]:
    """Hold all connections of the server that nobody else has."""
    address = stack.engine("migrator").url.set(drivername="postgresql").render_as_string(hide_password=False)
    with ExitStack() as connections:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            take_all(connections, address)
        yield


def take_all(connections: ExitStack, address: str) -> None:
    """Open connections until the server accepts no more, and raise its error."""
    while True:
        connections.enter_context(psycopg.connect(address))


def test_jobs_go_on_when_the_server_has_no_connection_left(stack: Stack, dispatcher: Process) -> None:
    with stack.process("worker") as worker:
        worker.wait_for("serves queues")
        jobs = [stack.submit(REQUEST)]
        with no_connection_left(stack):
            jobs += [stack.submit(REQUEST) for _ in range(3)]
            time.sleep(3)
        for job_id in jobs:
            row = stack.wait(job_id)
            assert (row.state, row.succeeded) == ("succeeded", 40)
        assert (worker.child.poll(), dispatcher.child.poll()) == (None, None)
    with stack.engine("migrator").connect() as connection:
        query = text("SELECT sum(attempts) + sum(losses) FROM work WHERE job_id = ANY(:jobs)")
        assert connection.scalar(query, {"jobs": jobs}) == 0


def test_what_starts_meanwhile_waits_and_a_command_says_why_it_fails(stack: Stack, darkroom: Darkroom) -> None:
    with ExitStack() as running:
        with no_connection_left(stack):
            environment = {"DARKROOM_CONSOLE_PORT": "0"}
            processes = {name: running.enter_context(stack.process(name, **environment)) for name in STARTING}
            for process in processes.values():
                process.wait_for("has no connection left")
            done = darkroom("queues", "list")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "has no connection left" in done.stderr
        assert "try again later" in done.stderr
        for name, process in processes.items():
            process.wait_for(STARTING[name])
            assert "Waiting for a free connection." in process.log.read_text()
