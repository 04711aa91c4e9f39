"""Processes of the service prepare what they run often, but not through a pooler."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from services.database import connections
from services.database.faults import is_outage
from tests.support.pgbouncer import pooler, through
from tests.support.stack import Stack

PREPARED = text("SELECT count(*) FROM pg_prepared_statements")


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    url = stack.engine("migrator").url.render_as_string(hide_password=False)
    engine = connections.prepare_statements(connections.connect(url))
    yield connections.autocommit(engine)  # psycopg forgets what is prepared after a ROLLBACK
    engine.dispose()


def run_often(engine: Engine, statement: str) -> int:
    """Run a statement more often than is needed to prepare it. Returns how many the session has prepared."""
    with engine.connect() as connection:
        for _ in range(connections.PREPARE_AFTER + 1):
            connection.execute(text(statement))
        return int(connection.execute(PREPARED).scalar_one())


def test_a_statement_that_runs_often_is_prepared(engine: Engine) -> None:
    assert run_often(engine, "SELECT 1") == 1


def test_nothing_is_prepared_through_a_pooler(stack: Stack) -> None:
    with pooler(stack) as port:
        engine = connections.prepare_statements(connections.connect(through(port, stack.engine("worker").url)))
        assert run_often(connections.autocommit(engine), "SELECT 1") == 0
        engine.dispose()


def test_a_statement_is_prepared_anew_when_its_types_change(stack: Stack, engine: Engine) -> None:
    """As when another version upgrades the schema: the statement fails once, as it does when the server is away."""
    other = stack.engine("migrator")
    with other.begin() as connection:
        connection.execute(text("CREATE TABLE changing (value integer)"))
    try:
        assert run_often(engine, "SELECT value FROM changing")
        with other.begin() as connection:
            connection.execute(text("ALTER TABLE changing ALTER value TYPE text"))
        with engine.connect() as connection, pytest.raises(DBAPIError, match="cached plan") as failure:
            connection.execute(text("SELECT value FROM changing"))
        assert is_outage(failure.value)
        assert run_often(engine, "SELECT value FROM changing")
    finally:
        with other.begin() as connection:
            connection.execute(text("DROP TABLE changing"))


def test_a_connection_that_is_lost_at_once_is_an_outage(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(connection: "psycopg.Connection[Any]") -> bool:
        connection.close()
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(connections, "is_pooled", lose)
    with pytest.raises(DBAPIError) as failure, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert is_outage(failure.value)
