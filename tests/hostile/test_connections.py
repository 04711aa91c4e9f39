"""A tenant's connections are few, and what it does in them ends."""

from contextlib import ExitStack

import psycopg
import pytest

from services.database.logins import MAX_CONNECTIONS
from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant, administrator


def test_a_tenant_cannot_take_the_connections_of_others(
    attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process]
) -> None:
    with ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(attacker.connect())
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            attacker.connect()
        neighbour.assert_served(timeout=20)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_sleep(3600)",
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
    ],
)
def test_a_long_statement_delays_nobody(
    attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process], statement: str
) -> None:
    with attacker.connect() as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1min",)
        connection.execute("SET statement_timeout = '5s'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(statement)
        neighbour.assert_served(timeout=20)


def test_a_large_sort_stays_within_its_files(attacker: Tenant) -> None:
    with attacker.connect() as connection:
        assert connection.execute("SHOW temp_file_limit").fetchone() == ("1GB",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SET temp_file_limit = -1")


def test_a_cursor_that_outlives_its_transaction_keeps_no_snapshot(stack: Stack, attacker: Tenant) -> None:
    with attacker.connect() as connection, administrator(stack) as owner:
        connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT * FROM jobs")
        query = "SELECT backend_xmin, xact_start FROM pg_stat_activity WHERE pid = %s"
        assert owner.execute(query, (connection.info.backend_pid,)).fetchone() == (None, None)


def test_a_prepared_transaction_is_refused(attacker: Tenant) -> None:
    with attacker.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO jobs (model, request) VALUES ('nobody', '{}')")
        with pytest.raises(psycopg.Error) as error:
            connection.execute("PREPARE TRANSACTION 'held'")
        assert error.value.sqlstate == "55000", error.value  # max_prepared_transactions is 0, the default
