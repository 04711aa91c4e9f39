"""A process that cannot register ends with its exit code and one line that says why."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from tests.support.stack import Stack

FAULTY = """
from services.job_queue import processes
def register(*_): raise RuntimeError("a bug")
processes.register = register
"""
PROCESSES = ["worker", "dispatcher"]
DENIED = (
    "permission denied for table workers. The login in DARKROOM_DATABASE_URL has another role than this command needs."
)


@contextmanager
def without_the_right_to_register(stack: Stack, role: str) -> Iterator[None]:
    with stack.engine("migrator").begin() as connection:
        connection.execute(text(f"REVOKE INSERT ON workers FROM darkroom_{role}"))
    try:
        yield
    finally:
        with stack.engine("migrator").begin() as connection:
            connection.execute(text(f"GRANT INSERT ON workers TO darkroom_{role}"))


def last_words(stack: Stack, name: str, first: str = "", **environment: str) -> tuple[int, list[str]]:
    """Run a process until it ends. Returns its exit code and the lines of its log."""
    with stack.process(name, first=first, **environment) as process:
        code = process.child.wait(60)
    return code, process.log.read_text().splitlines()


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_may_not_register_says_so(stack: Stack, name: str) -> None:
    with without_the_right_to_register(stack, name):
        code, lines = last_words(stack, name)
    assert (code, lines) == (1, [f"error: {DENIED}"])


@pytest.mark.parametrize("name", PROCESSES)
def test_as_json_it_is_one_line_too(stack: Stack, name: str) -> None:
    with without_the_right_to_register(stack, name):
        code, lines = last_words(stack, name, DARKROOM_LOG_FORMAT="json")
    assert code == 1
    (line,) = lines
    assert f'"message": "{DENIED}"' in line


@pytest.mark.parametrize("name", PROCESSES)
def test_a_bug_at_the_start_is_told_as_one(stack: Stack, name: str) -> None:
    code, lines = last_words(stack, name, first=FAULTY)
    assert code == 4
    (line,) = lines
    assert line.startswith("error: unexpected RuntimeError: a bug. This is a bug; the traceback is in ")


@pytest.mark.parametrize("name", PROCESSES)
def test_a_database_that_refuses_connections_is_named(stack: Stack, name: str) -> None:
    url = stack.engine("worker").url.set(port=1).render_as_string(hide_password=False)
    code, lines = last_words(stack, name, DARKROOM_DATABASE_URL=url)
    assert code == 1
    assert len(lines) <= 2, lines
    assert "does not answer" in lines[0]
