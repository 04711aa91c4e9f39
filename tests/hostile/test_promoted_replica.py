"""A replica takes the place of Postgres in the middle of a batch: processes go on, and no image is wrong."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from services.local_stack.logins import Role
from tests.support.replica import connect_to_replica, crash, detach, promote, replica, with_failover
from tests.support.stack import Process, Stack, fresh_stack
from tests.support.tenants import QUICK
from tests.support.thoroughness import THOROUGH

pytestmark = pytest.mark.skipif(not THOROUGH, reason="make chaos promotes replicas beneath running processes")
REQUEST = '{"items": [{"class_label": 1}], "images_per_item": 60, "steps": 2, "seed": 5}'
INSERT = "INSERT INTO jobs (model, request) VALUES ('tiny@production', %s) RETURNING id"
JOBS = 4
IMAGES = "SELECT count(*) FROM outputs"


def connect(stack: Stack, role: Role, port: int) -> psycopg.Connection[Any]:
    return psycopg.connect(with_failover(stack.engine(role).url, port), autocommit=True)


@contextmanager
def processes(stack: Stack, port: int) -> Iterator[list[Process]]:
    """Run a dispatcher and a worker that know both servers."""
    with ExitStack() as running:
        found = []
        for name, words in (("dispatcher", "serves"), ("worker", "serves queues")):
            url = with_failover(stack.engine(name).url, port)  # type: ignore[arg-type]
            found.append(running.enter_context(stack.process(name, **QUICK, DARKROOM_DATABASE_URL=url)))
            found[-1].wait_for(words)
        yield found


def submit(stack: Stack, port: int, count: int) -> list[Any]:
    with connect(stack, "submitter", port) as client:
        return [client.execute(INSERT, (REQUEST,)).fetchall()[0][0] for _ in range(count)]


def wait_for_images(stack: Stack, port: int, count: int) -> None:
    deadline = time.monotonic() + 120
    with connect(stack, "submitter", port) as client:
        while client.execute(IMAGES).fetchall()[0][0] < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def assert_all_right(stack: Stack, port: int, jobs: list[Any], running: list[Process]) -> None:
    """Every job succeeds, every image is recorded once, and its object is what its row says."""
    deadline = time.monotonic() + 240
    with connect(stack, "submitter", port) as client:
        while states := client.execute("SELECT id, state FROM jobs WHERE finished_at IS NULL").fetchall():
            assert time.monotonic() < deadline, (states, [process.log.read_text()[-2000:] for process in running])
            time.sleep(0.1)
        found = client.execute("SELECT id, state, succeeded, failed FROM jobs ORDER BY id").fetchall()
        rows = client.execute("SELECT job_id, index, key, sha256 FROM outputs ORDER BY job_id, index").fetchall()
    assert found == [(job, "succeeded", 60, 0) for job in sorted(jobs)]
    assert [(job, index) for job, index, *_ in rows] == [(job, index) for job in sorted(jobs) for index in range(60)]
    for _, _, key, sha256 in rows:
        assert hashlib.sha256(stack.store().get(key)).hexdigest() == sha256
    assert [process.child.poll() for process in running] == [None, None]


def test_processes_go_on_with_the_replica_that_is_promoted() -> None:
    with fresh_stack() as stack, replica(stack) as port, processes(stack, port) as running:
        jobs = submit(stack, port, JOBS)
        wait_for_images(stack, port, 30)
        promote(stack, port)
        jobs += submit(stack, port, 1)
        assert_all_right(stack, port, jobs, running)


def test_what_an_asynchronous_replica_lacks_is_made_again() -> None:
    """What was recorded after the replica has lost its network is as it was before. Objects that are stored stay."""
    with fresh_stack() as stack, replica(stack, is_synchronous=False) as port:
        with processes(stack, port):
            jobs = submit(stack, port, JOBS)
            wait_for_images(stack, port, 30)
            detach(stack, port)
            lost = submit(stack, port, 1)
            wait_for_images(stack, port, 60 * JOBS + 30)
            with connect(stack, "migrator", port) as owner:
                recorded = owner.execute(IMAGES).fetchall()[0][0]
            crash(stack)
        with connect_to_replica(stack, port) as standby:
            assert standby.execute("SELECT pg_promote()").fetchone() == (True,)
            assert standby.execute(IMAGES).fetchall()[0][0] < recorded, "the replica lacks nothing"
        with processes(stack, port) as running:
            assert_all_right(stack, port, jobs, running)
            assert not set(lost) & set(jobs)
