"""Connections to Postgres and its logins: one for each tenant or service."""

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError

from services.observability import metrics
from training.errors import DarkroomError


class DatabaseError(DarkroomError):
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


def server_version(connection: Connection) -> str:
    """Return the version of the Postgres server, such as 17.2."""
    return str(connection.scalar(text("SELECT current_setting('server_version')")))


def unreachable(engine: Engine, error: OperationalError) -> str:
    """One line about a database that does not answer, without its password."""
    return (
        f"Postgres at {engine.url.render_as_string(hide_password=True)} does not answer ({brief(error)}). "
        "Start the local stack with `darkroom up`, or check DARKROOM_DATABASE_URL."
    )


def brief(error: BaseException) -> str:
    """The first line of an error, for a log."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
