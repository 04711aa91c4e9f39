"""What a viewer of the console sees is decided by the database, and by the viewer's tenant alone."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.job_queue.viewing import set_viewer
from tests.support.console import make_job, open_console
from tests.support.stack import Stack
from tests.support.tenants import make_tenant


def test_the_role_sees_nothing_without_a_tenant(stack: Stack) -> None:
    job = make_job(stack, 1)
    with stack.engine("console").begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": job}) == 0
        set_viewer(connection, "no-such-tenant")
        assert connection.scalar(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": job}) == 0
        set_viewer(connection, "default")
        assert connection.scalar(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": job}) == 1
    with stack.engine("console").begin() as connection:  # the setting has ended with its transaction
        assert connection.scalar(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": job}) == 0


def test_the_setting_gives_a_tenants_own_login_nothing(stack: Stack) -> None:
    make_tenant(stack, "peeking")
    theirs = make_job(stack, 1)
    with stack.engine("submitter").begin() as connection:
        set_viewer(connection, "peeking", is_operator=True)
        assert connection.scalar(text("SELECT current_tenant()")) == "default"
    with make_tenant(stack, "peeking").connect() as connection:
        connection.execute("SET darkroom.tenant = 'default'")
        assert connection.execute("SELECT count(*) FROM jobs WHERE id = %s", (theirs,)).fetchone() == (0,)


def test_only_operators_see_processes_and_what_is_not_permitted(stack: Stack) -> None:
    make_tenant(stack, "narrow", permitted_releases=["other"], permitted_queues=["other"])
    with stack.engine("console").begin() as connection:
        for is_operator, expected in ((False, False), (True, True)):
            set_viewer(connection, "narrow", is_operator=is_operator)
            seen = connection.scalar(text("SELECT bool_or(name = 'tiny') FROM visible_releases"))
            queues = connection.scalar(text("SELECT bool_or(name = 'default') FROM visible_queues"))
            assert (bool(seen), bool(queues)) == (expected, expected)


@pytest.mark.parametrize("table", ["tenants", "work", "workers", "releases", "aliases", "queues"])
def test_the_role_reads_no_table_of_the_service(stack: Stack, table: str) -> None:
    with stack.engine("console").begin() as connection, pytest.raises(DBAPIError, match="permission denied"):
        connection.execute(text(f"SELECT 1 FROM {table}"))


def test_another_tenants_jobs_look_like_missing_ones(stack: Stack) -> None:
    make_tenant(stack, "stranger")
    job = make_job(stack, 3)
    console = open_console(stack, "stranger")
    assert str(job) not in console.get("/jobs").text
    for path in ("", "/images/0", "/images/0/file", "/images/0/256.webp"):
        answer = console.get(f"/jobs/{job}{path}")
        assert answer.status_code == 404
        assert "does not exist, or belongs to another tenant" in answer.text


def test_no_parameter_or_header_changes_the_tenant(stack: Stack) -> None:
    make_tenant(stack, "forger")
    job = make_job(stack, 1)
    console = open_console(stack, "forger")
    forged = {"X-Forwarded-User": "default", "X-Darkroom-Tenant": "default", "Remote-User": "default"}
    assert console.get(f"/jobs/{job}", params={"tenant": "default"}, headers=forged).status_code == 404
    console.cookies.set("tenant", "default")
    assert console.get(f"/jobs/{job}").status_code == 404
