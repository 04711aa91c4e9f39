"""Connections to Postgres and its logins: one for each tenant or service."""

import re

from psycopg import sql
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError

from services import metrics

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class DatabaseError(Exception):
    """The database cannot be used as asked; the message says what to do."""


def connect(url: str) -> Engine:
    """An engine for `url`, postgresql://login:password@host:port/database. Opens nothing yet.

    Prepared statements are off, so that a transaction-pooling PgBouncer may stand between.
    """
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=5,
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": 5,
            "application_name": "darkroom",
            # A peer that is gone without a word is noticed in seconds, not in the kernel's two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )
    event.listen(engine, "handle_error", _count)
    return engine


def _count(context: ExceptionContext) -> None:
    if isinstance(context.sqlalchemy_exception, OperationalError):
        metrics.DATABASE_ERRORS.inc()


def unreachable(engine: Engine, error: OperationalError) -> str:
    """One line about a database that does not answer, without its password."""
    return (
        f"Postgres at {engine.url.render_as_string(hide_password=True)} does not answer ({brief(error)}). "
        "Start the local stack with `darkroom up`, or check DARKROOM_DATABASE_URL."
    )


def ensure_login(connection: Connection, login: str, *, group: str, password: str) -> None:
    """Create `login` or set its password; it belongs to the role darkroom_<group> and to nothing else."""
    if not NAME.fullmatch(login):
        raise DatabaseError(f"login: {login!r} is not allowed; permitted: a-z, 0-9, _ and -, at most 63")
    cursor = connection.connection.cursor()
    exists = cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (login,)).fetchone() is not None
    verb = sql.SQL("ALTER" if exists else "CREATE")
    cursor.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(login), sql.Literal(password)))
    cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(f"darkroom_{group}"), sql.Identifier(login)))


def ensure_tenant(connection: Connection, name: str, *, login: str) -> None:
    """Create a tenant or give it another login; it reads under inputs/<name>, writes under outputs/<name>."""
    if not NAME.fullmatch(name):
        raise DatabaseError(f"tenant: {name!r} is not allowed; permitted: a-z, 0-9, _ and -, at most 63")
    connection.execute(
        text("""
            INSERT INTO tenants (name, login, read_prefixes, write_prefixes)
            VALUES (:name, :login, ARRAY['inputs/' || :name], ARRAY['outputs/' || :name])
            ON CONFLICT (name) DO UPDATE SET login = excluded.login
        """),
        {"name": name, "login": login},
    )


def brief(error: BaseException) -> str:
    """The first line of an error, for a log."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
