"""Connections to Postgres. Each tenant and each role has a login of its own."""

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError

from training.errors import DarkroomError, first_line


class DatabaseError(DarkroomError):
    """The database cannot do what was asked; the message says what to do."""


def connect(url: str) -> Engine:
    """Return an engine for `url`, postgresql://login:password@host:port/database, without connecting.

    It uses no prepared statements, so that it works through a PgBouncer that pools transactions.
    """
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=5,
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": 5,
            "application_name": "darkroom",
            # The kernel's defaults notice a lost peer only after two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )
    event.listen(engine, "handle_error", _count_error)
    return engine


def _count_error(context: ExceptionContext) -> None:
    if isinstance(context.sqlalchemy_exception, OperationalError):
        from services.observability import metrics  # a command that meets no error need not import Prometheus's client

        metrics.DATABASE_ERRORS.inc()


def server_version(connection: Connection) -> str:
    """Return the version of the Postgres server, such as 17.2."""
    return str(connection.scalar(text("SELECT current_setting('server_version')")))


def unreachable(engine: Engine, error: OperationalError) -> str:
    """Return a line about a database that does not answer, without its password."""
    return (
        f"Postgres at {engine.url.render_as_string(hide_password=True)} does not answer ({brief(error)}). "
        "Start the local stack with `darkroom up`, or check DARKROOM_DATABASE_URL."
    )


def brief(error: BaseException) -> str:
    """Return the first line of an error, for a log."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return first_line(cause)
