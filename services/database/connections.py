"""Connections to Postgres. Each tenant and each role has a login of its own."""

import math
import re
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from services.environment import advise, ignore_variables
from training.errors import DarkroomError, first_line

if TYPE_CHECKING:
    import psycopg


# What a URL does not say. None of it is a parameter that a pooler such as PgBouncer refuses.
DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "application_name": "darkroom",
    # The kernel's defaults notice a lost peer only after two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


# What Postgres and PgBouncer say to a program that asks for one connection too many. libpq gives no SQLSTATE for it.
FULL = re.compile(r"too many (clients|connections)|connection slots are reserved|no more connections allowed")
FULL_ADVICE = "Others use all of them: try again later, end some of them, or raise the limit."
PREPARE_AFTER = 5  # runs of a statement on a connection
UNUSED_S = 1.0  # after which a connection of the pool is tried before it is used: each try costs a round trip


class DatabaseError(DarkroomError):
    """The database cannot do what was asked; the message says what to do."""


def connect(url: str) -> Engine:
    """Return an engine for `url`, postgresql://login:password@host:port/database, without connecting.

    The URL alone says how to reach the database: variables of libpq have no effect but PGSSLROOTCERT. The engine uses
    no prepared statements, so that it works through a PgBouncer that pools transactions; see `prepare_statements`.
    """
    ignore_variables("PG")
    address = make_url(url).set(drivername="postgresql+psycopg")
    engine = create_engine(
        address,
        pool_size=5,
        pool_use_lifo=True,  # the connection that was used last need not be tried, and has the plans of functions
        connect_args={"prepare_threshold": None, **_defaults_of(address)},
    )
    event.listen(engine, "handle_error", _count_error)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", partial(_ping_unused, engine.dialect))
    return engine


def prepare_statements(engine: Engine) -> Engine:
    """Let each new connection prepare the statements that it runs often, unless it goes through a pooler.

    Postgres then parses and plans them once and not each time, which takes it longer than most of them take to run.
    """
    event.listen(engine, "connect", _prepare_statements)
    event.listen(engine, "handle_error", _drop_old_plans)
    return engine


def _prepare_statements(connection: "psycopg.Connection[Any]", _: ConnectionPoolEntry) -> None:
    pooled = is_pooled(connection)
    connection.rollback()
    connection.prepare_threshold = None if pooled else PREPARE_AFTER


def _drop_old_plans(context: ExceptionContext) -> None:
    """Replace a connection whose prepared statement returns other types since the schema was upgraded."""
    diagnosis = getattr(context.original_exception, "diag", None)
    if diagnosis is not None and diagnosis.source_function == "RevalidateCachedQuery":
        context.is_disconnect = True


def is_pooled(connection: "psycopg.Connection[Any]") -> bool:
    """Return whether the session has another process than the one that the connection was told of."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid


@lru_cache(maxsize=16)  # making it takes as long as a statement
def autocommit(engine: Engine) -> Engine:
    """Return the same connections, on which each statement is a transaction of its own.

    A process that freezes between two statements, or whose network is lost, then holds no lock.
    """
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def connect_directly(url: URL, **options: Any) -> "psycopg.Connection[Any]":
    """Return a connection of psycopg's own, outside the engine's pool. options: of psycopg.connect."""
    import psycopg

    _, arguments = url.get_dialect()().create_connect_args(url)
    return psycopg.connect(**{"prepare_threshold": None, **_defaults_of(url), **arguments, **options})


def _defaults_of(url: URL) -> dict[str, Any]:
    return {name: value for name, value in DEFAULTS.items() if name not in url.query}


def _note_use(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_unused(dialect: Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
    """Replace the pool's connections if one that was not used for a while is lost."""
    if time.monotonic() - record.info.get("used_at", math.inf) < UNUSED_S:
        return
    try:
        dialect.do_ping(connection)
    except Exception as error:
        raise InvalidatePoolError from error


def _count_error(context: ExceptionContext) -> None:
    if isinstance(context.sqlalchemy_exception, OperationalError):
        from services.observability import metrics  # a command that meets no error need not import Prometheus's client

        metrics.DATABASE_ERRORS.inc()


def server_version(connection: Connection) -> str:
    """Return the version of the Postgres server, such as 17.2."""
    return str(connection.scalar(text("SELECT current_setting('server_version')")))


def is_full(error: BaseException) -> bool:
    """Return whether the server, the database or the login has no connection left."""
    return FULL.search(str(error)) is not None


def unreachable(engine: Engine, error: OperationalError) -> str:
    """Return a line about a database that does not answer or refuses the connection, without its password."""
    if is_full(error):
        return f"Postgres at {_place(engine.url)} has no connection left ({brief(error)}). {FULL_ADVICE}"
    _, answered, reason = brief(error).partition("FATAL:")
    if answered:
        return (
            f"Postgres at {_place(engine.url)} refuses the connection: {reason.strip()}. Check DARKROOM_DATABASE_URL."
        )
    return f"Postgres at {_place(engine.url)} does not answer ({brief(error)}). {advise('DARKROOM_DATABASE_URL')}"


def _place(url: URL) -> str:
    """Return the login, the host and the database. Parameters of a URL may be secrets."""
    host, port = url.host or url.query.get("host", "a local socket"), url.port or url.query.get("port", "")
    return f"{url.username or ''}@{host}{f':{port}' if port else ''}/{url.database or ''}".removeprefix("@")


def brief(error: BaseException) -> str:
    """Return the first line of an error, for a log."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return first_line(cause)


def describe(error: BaseException) -> str:
    """Return the first line of an error, and its type unless the message was written for a person."""
    return brief(error) if isinstance(error, DarkroomError) else f"{type(error).__name__}: {brief(error)}"
