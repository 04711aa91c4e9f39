"""Workers and queues for operators, and why jobs wait for everybody."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from services.job_queue.processes import record_heartbeat, register
from services.job_queue.states import ProcessKind
from tests.support.console import make_job, open_console, remove_jobs
from tests.support.console_releases import send_form
from tests.support.stack import Stack, fresh_stack
from tests.support.tenants import make_tenant


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack of these tests alone: what others leave in a queue would be on the page."""
    with fresh_stack() as running:
        running.commit_without_waiting()
        yield running


@contextmanager
def queue_called(stack: Stack, name: str) -> Iterator[None]:
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("INSERT INTO queues (name) VALUES (:name)"), {"name": name})
    try:
        yield
    finally:
        with stack.engine("migrator").begin() as connection:
            connection.execute(text("DELETE FROM queues WHERE name = :name"), {"name": name})


def is_paused(stack: Stack, name: str) -> bool:
    with stack.engine("migrator").begin() as connection:
        query = text("SELECT paused FROM queues WHERE name = :name")
        return bool(connection.execute(query, {"name": name}).scalar_one())


def test_an_operator_pauses_and_resumes_a_queue(stack: Stack) -> None:
    console = open_console(stack, is_operator=True)
    with queue_called(stack, "service-queue"):
        send_form(console, "/service", "/service/queues/service-queue/pause")
        assert is_paused(stack, "service-queue")
        send_form(console, "/service", "/service/queues/service-queue/resume")
        assert not is_paused(stack, "service-queue")
        page = console.get("/service").text
        token = re.findall(r'name="csrf" value="([^"]+)"', page)[0]
        assert console.post("/service/queues/no-such-queue/pause", data={"csrf": token}).status_code == 404
        assert console.post("/service/queues/service-queue/drop", data={"csrf": token}).status_code == 404


def test_a_queue_is_shown_with_its_open_jobs_and_what_they_have_to_make(stack: Stack) -> None:
    with queue_called(stack, "service-load"):
        make_tenant(stack, "service-loads", permitted_queues=["*"])
        open_jobs = [make_job(stack, 10, tenant="service-loads", queue="service-load", pictures=1, state="running",
                              succeeded=made, finished_at=None) for made in (0, 4)]  # fmt: skip
        ended = make_job(stack, 10, tenant="service-loads", queue="service-load", pictures=1)
        try:
            page = open_console(stack, is_operator=True).get("/service").text
        finally:
            remove_jobs(stack)
    row = page.split("<td>service-load")[1].split("</tr>")[0]
    assert re.findall(r'class="number">([0-9,]+)<', row) == ["2", "16", "0", "1"], (open_jobs, ended)
    assert "service-load" not in open_console(stack).get("/service").text


def test_processes_are_shown_to_operators_alone(stack: Stack) -> None:
    with stack.engine("worker").begin() as connection:
        worker = register(connection, ProcessKind.WORKER, ["service-own"])
        record_heartbeat(connection, worker, "profile-of-this-test")
    with stack.engine("migrator").begin() as connection:
        silent = text("UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = :id")
        connection.execute(silent, {"id": worker})
    row = r"silent</span></td>\s*<td>[^<]*</td>\s*<td><code>profile-of-this-test"
    try:
        assert re.search(row, open_console(stack, is_operator=True).get("/service").text)
        guest = open_console(stack)
        page = guest.get("/service").text
        assert "profile-of-this-test" not in page
        token = re.findall(r'name="csrf" value="([^"]+)"', page)[0]
        assert guest.post("/service/queues/default/pause", data={"csrf": token}).status_code == 403
        assert not is_paused(stack, "default")
    finally:
        with stack.engine("migrator").begin() as connection:
            connection.execute(text("DELETE FROM workers WHERE id = :id"), {"id": worker})


def test_a_job_that_waits_says_why(stack: Stack) -> None:
    job = make_tenant(stack, "service-waits").submit(run_after="2100-01-01T00:00:00Z")
    page = open_console(stack, "service-waits").get("/service").text
    assert f'href="/jobs/{job}"' in page
    assert "2100-01-01 00:00:00 UTC" in page.split(str(job))[2]
    make_tenant(stack, "service-idle")
    assert "No job of service-idle waits" in open_console(stack, "service-idle").get("/service").text
