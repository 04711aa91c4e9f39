"""Clients of two tenants."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text

from services.database import logins
from services.job_queue import queues, tenants
from tests.support.job_queue import empty_queue
from tests.support.stack import Stack


@pytest.fixture
def other_queue(engine: Engine) -> Iterator[str]:
    """A second queue."""
    with engine.begin() as connection:
        queues.add_queues(connection, ["other"])
    yield "other"
    empty_queue(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM queues WHERE name = 'other'"))


@pytest.fixture
def client(stack: Stack) -> Iterator[psycopg.Connection]:
    """A plain driver with the submitter's login, as another language would use."""
    url = stack.settings("submitter").database_url.get_secret_value().replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def other_tenant(stack: Stack) -> Iterator[psycopg.Connection]:
    """A second tenant's connection."""
    with stack.engine("migrator").begin() as connection:
        logins.ensure_login(connection, "tenant_other", group="submitter", password="a-long-password")
        tenants.ensure_tenant(connection, "other", login="tenant_other")
    url = stack.engine("migrator").url.set(drivername="postgresql", username="tenant_other", password="a-long-password")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection
