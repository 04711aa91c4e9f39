"""The limits of every login, which hold whoever opens the connection."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from services.cli.stack import LOCAL_ROLES
from services.database import connections, logins, schema
from services.local_stack.logins import Role
from services.storage.transient import is_transient
from tests.support.commands import Darkroom
from tests.support.stack import Stack

PASSWORD = "a-long-password"


def as_login(stack: Stack, login: str) -> str:
    url = stack.engine("migrator").url.set(drivername="postgresql", username=login, password=PASSWORD)
    return url.render_as_string(hide_password=False)


@pytest.fixture
def login(stack: Stack) -> Iterator[str]:
    """A name for a login, which is dropped after the test."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    yield name
    with stack.engine("migrator").begin() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {name}"))


@pytest.mark.parametrize("role", LOCAL_ROLES)
def test_each_login_has_its_limits(stack: Stack, role: Role) -> None:
    limits = {**logins.COMMON, **logins.LIMITS[role]}
    with stack.engine("migrator").begin() as connection:
        for name, value in limits.items():
            connection.execute(text(f"SET LOCAL {name} = '{value}'"))
        expected = show(connection, limits)
    with stack.engine(role).connect() as connection:
        assert show(connection, limits) == expected


def show(connection: Connection, names: Iterable[str]) -> dict[str, object]:
    return {name: connection.scalar(text("SELECT current_setting(:name)"), {"name": name}) for name in names}


def test_a_process_that_freezes_in_a_transaction_frees_its_locks(stack: Stack, login: str) -> None:
    with stack.engine("migrator").begin() as connection:
        assert logins.ensure_login(connection, login, group="worker", password=PASSWORD) == []
    program = (
        f"import psycopg; c = psycopg.connect({as_login(stack, login)!r})\n"
        "c.execute(\"SELECT FROM tenants WHERE name = 'default' FOR UPDATE\")\n"
        "print('locked', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as frozen:
        try:
            assert frozen.stdout is not None
            assert frozen.stdout.readline() == b"locked\n"
            os.kill(frozen.pid, signal.SIGSTOP)
            began = time.monotonic()
            with stack.engine("migrator").begin() as connection:
                connection.execute(text("SELECT FROM tenants WHERE name = 'default' FOR UPDATE"))
            assert time.monotonic() - began < 12
        finally:
            frozen.kill()


@pytest.mark.parametrize("limit", ["idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"])
def test_work_that_a_limit_interrupts_is_tried_again(stack: Stack, limit: str) -> None:
    with stack.engine("migrator").begin() as holder, stack.engine("worker").connect() as connection:
        holder.execute(text("LOCK TABLE workers"))
        connection.execute(text(f"SET LOCAL {limit} = '200ms'"))
        with pytest.raises(DBAPIError) as error:  # noqa: PT012
            time.sleep(0.4)
            connection.execute(text("SELECT FROM workers"))
    assert is_transient(error.value)


def test_what_an_operator_has_set_stays(stack: Stack, login: str) -> None:
    with stack.engine("migrator").begin() as connection:
        logins.ensure_login(connection, login, group="submitter", password=PASSWORD)
        connection.execute(text(f"ALTER ROLE {login} SET statement_timeout = '5min'"))
        logins.limit_connections(connection, login, 7)
        logins.ensure_login(connection, login, group="submitter", password=PASSWORD)
        assert logins.connection_limits(connection)[login] == 7
    with psycopg.connect(as_login(stack, login)) as client:
        assert client.execute("SHOW statement_timeout").fetchone() == ("5min",)
        assert client.execute("SHOW lock_timeout").fetchone() == ("10s",)


def test_a_limit_that_needs_a_superuser_is_named(stack: Stack, login: str) -> None:
    owner = f"{login}_owner"
    with stack.engine("migrator").begin() as connection:
        connection.execute(text(f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{PASSWORD}'"))
        connection.execute(text(f"GRANT darkroom_submitter TO {owner} WITH ADMIN OPTION"))
    managed: Engine = connections.connect(as_login(stack, owner))
    try:
        with managed.begin() as connection:
            unset = logins.ensure_login(connection, login, group="submitter", password=PASSWORD)
            assert unset == ["temp_file_limit = 1GB"]
            assert login not in logins.logins_without_limits(connection)
    finally:
        managed.dispose()
        with stack.engine("migrator").begin() as connection:
            connection.execute(text(f"REASSIGN OWNED BY {owner} TO postgres"))
            connection.execute(text(f"DROP OWNED BY {owner}"))
            connection.execute(text(f"DROP ROLE {login}, {owner}"))


def test_an_owner_that_is_no_superuser_may_end_old_transactions_of_clients(stack: Stack) -> None:
    """As on a managed server, where the tables' owner may create roles and nothing more."""
    owner, client = f"owner_{uuid.uuid4().hex[:8]}", f"tenant_{uuid.uuid4().hex[:8]}"
    administrator = stack.engine("migrator").execution_options(isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{PASSWORD}'"))
        for group in logins.LIMITS:
            connection.execute(text(f"GRANT darkroom_{group} TO {owner} WITH ADMIN OPTION"))
        connection.execute(text(f"CREATE DATABASE {owner} OWNER {owner}"))
    url = stack.engine("migrator").url.set(database=owner, username=owner, password=PASSWORD)
    engine = connections.connect(url.render_as_string(hide_password=False))
    try:
        schema.upgrade(engine)
        with engine.begin() as connection:
            logins.ensure_login(connection, client, group="submitter", password=PASSWORD)
        plain = url.set(drivername="postgresql", username=client).render_as_string(hide_password=False)
        own = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain) as idle, psycopg.connect(own) as backup:  # which may take hours
            idle.execute("SELECT 1")
            backup.execute("SELECT 1")
            time.sleep(1.1)
            with engine.connect() as connection:
                ended = connection.scalar(text("SELECT end_long_client_transactions(interval '1 s')"))
            assert ended == 1
            with pytest.raises(psycopg.OperationalError):
                idle.execute("SELECT 1")
            assert backup.execute("SELECT 1").fetchone() == (1,)
    finally:
        engine.dispose()
        with administrator.connect() as connection:
            connection.execute(text(f"DROP DATABASE {owner} WITH (FORCE)"))


def test_a_tenant_has_so_many_connections_and_no_more(stack: Stack, darkroom_here: Darkroom) -> None:
    password = stack.root / "password"
    password.write_text(PASSWORD)
    name = f"t{uuid.uuid4().hex[:8]}"
    arguments = ("--password-file", str(password), "--queue", "default", "--head-start", "500", "--max-open-bytes", "9")
    done = darkroom_here("tenants", "add", name, *arguments)
    assert done.returncode == 0, done.stderr
    assert darkroom_here("tenants", "set", name, "--max-connections", "2").returncode == 0
    url = as_login(stack, f"tenant_{name}")
    with (
        psycopg.connect(url),
        psycopg.connect(url),
        pytest.raises(psycopg.OperationalError, match="too many connections for role"),
    ):
        psycopg.connect(url)
    (tenant,) = [row for row in json.loads(darkroom_here("tenants", "list", "--json").stdout) if row["name"] == name]
    assert {key: tenant[key] for key in ("head_start", "max_open_bytes", "max_connections", "permitted_queues")} == {
        "head_start": 500,
        "max_open_bytes": 9,
        "max_connections": 2,
        "permitted_queues": ["default"],
    }
    assert f"tenant_{name}" in darkroom_here("tenants", "list").stdout


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--queue", "nowhere", "--queue: 'nowhere' does not exist; permitted: default"),
        ("--head-start", "1000001", "'--head-start': Input should be less than or equal to 1000000"),
        ("--max-open-bytes", "-1", "'--max-open-bytes': Input should be greater than or equal to 0"),
        ("--max-connections", "-1", "'--max-connections': Input should be greater than or equal to 0"),
        ("--max-open-jobs", "9999999999", "'--max-open-jobs': Input should be less than or equal to 2147483647"),
    ],
)
def test_a_limit_that_is_not_permitted_is_named(
    stack: Stack, darkroom_here: Darkroom, option: str, value: str, message: str
) -> None:
    done = darkroom_here("tenants", "set", "default", option, value)
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_a_tenant_may_get_every_queue_again(stack: Stack, darkroom_here: Darkroom) -> None:
    for queues in (["default"], ["*"]):
        done = darkroom_here(
            "tenants", "set", "default", "--json", *(word for name in queues for word in ("--queue", name))
        )
        assert json.loads(done.stdout) == {"name": "default", "permitted_queues": queues}
