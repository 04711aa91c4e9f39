"""The database's schema: upgrade it step by step without blocking its users, and check which code may use it.

A step that cannot lock a table at once gives up and retries later, because a waiting exclusive lock blocks all later
queries. The migrations record in the database which code works with which schema, so that older code that meets a newer
schema, after a rollback, knows whether it may run.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

import migrations
from services.database.connections import DatabaseError, brief, unreachable

if TYPE_CHECKING:  # every command checks the schema, few change it, and Alembic is slow to import
    from alembic.config import Config
    from alembic.script import ScriptDirectory

MIGRATIONS = Path(migrations.__file__).parent
OLDEST_SCHEMA = "0031"  # the oldest revision that this code's workers, dispatchers and commands work with
LOCK_TIMEOUT_S = 3.0
TIMEOUT_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
# Alembic's own table. It is created here, so that the first upgrade can lock it.
VERSION_TABLE = """
    CREATE TABLE IF NOT EXISTS alembic_version (
        version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))
"""
CREATE_ATTEMPTS = 3
ALREADY_THERE = ("23505", "42710", "42P07")  # SQLSTATEs: unique_violation, duplicate_object, duplicate_table
LOCK_INTERVAL_S = 0.2
LOCK_NOT_AVAILABLE = "55P03"  # SQLSTATE


@dataclass(frozen=True)
class Schema:
    """The revision of a database's schema, and the newest one that this code knows."""

    revision: str | None  # None: the database has no tables, or this login may not read the revision
    code_revision: str
    oldest_code: str | None  # code_revision of the oldest code that works with the schema; None: not recorded

    @property
    def is_newer(self) -> bool:
        """Whether the schema is newer than this code."""
        return self.revision is not None and self.revision > self.code_revision

    def problem(self, oldest_schema: str = OLDEST_SCHEMA) -> str | None:
        """Return why this code cannot work with the schema and what to do, or None if it can."""
        if self.revision is not None and self.revision < oldest_schema:
            return (f"The database's schema, {self.revision}, is older than {oldest_schema}, which this version needs. "
                    "Bring it up with: darkroom db upgrade")  # fmt: skip
        if self.is_newer and (self.oldest_code is None or self.code_revision < self.oldest_code):
            return (f"The database's schema, {self.revision}, works with versions from {self.oldest_code} on, and this "
                    f"one is {self.code_revision}. Use a newer version, or downgrade the database with the newer "
                    f"one's: darkroom db downgrade {self.code_revision}")  # fmt: skip
        return None


def newest_revision(folder: Path = MIGRATIONS) -> str:
    """Return the newest revision of the migrations in a folder. Their files begin with it."""
    return max(path.stem.split("_")[0] for path in (folder / "versions").glob("[0-9]*.py"))


def read_schema(connection: Connection, folder: Path = MIGRATIONS) -> Schema:
    """Read the schema's revision. To a login that may not read it, the revision is None."""
    revision = oldest = None
    # Before 0005 the roles' logins could not read the revision.
    if connection.scalar(text("SELECT has_table_privilege(to_regclass('public.alembic_version'), 'SELECT')")):
        revision = connection.scalar(text("SELECT max(version_num) FROM alembic_version"))
        if connection.scalar(text("SELECT to_regclass('public.schema_revisions') IS NOT NULL")):
            oldest = connection.scalar(
                text("SELECT oldest_code FROM schema_revisions WHERE revision = :revision"), {"revision": revision}
            )
    return Schema(revision, newest_revision(folder), oldest)


def check_schema(engine: Engine, oldest_schema: str = OLDEST_SCHEMA) -> Schema:
    """Return the schema, or raise DatabaseError if the database does not answer or this code cannot work with it."""
    try:
        with engine.connect() as connection:
            has_tables = connection.scalar(text("SELECT to_regclass('public.jobs') IS NOT NULL"))
            schema = read_schema(connection)
    except OperationalError as error:
        raise DatabaseError(unreachable(engine, error)) from None
    if not has_tables:
        raise DatabaseError("The database has no Darkroom tables yet. Create them with: darkroom db upgrade")
    if problem := schema.problem(oldest_schema):
        raise DatabaseError(problem)
    return schema


def upgrade(engine: Engine, folder: Path = MIGRATIONS, timeout_s: float = TIMEOUT_S) -> str:
    """Upgrade the schema to the newest revision and return its revision. Running it again changes nothing.

    Each step is a transaction of its own, so an interrupted upgrade continues where it stopped. A newer schema that
    this code works with is left unchanged. Raises DatabaseError.
    """
    try:
        scripts = _script_directory(folder)  # once: it loads all migrations
        with _upgrade_lock(engine, timeout_s) as lock, engine.connect() as connection:
            while (schema := read_schema(connection, folder)).revision != schema.code_revision:
                connection.rollback()
                if schema.is_newer:
                    if problem := schema.problem():
                        raise DatabaseError(problem)
                    return str(schema.revision)
                lock.execute(text("SELECT 1"))  # The lock ends with its connection.
                _run_step(engine, scripts, _revision_after(schema.revision, scripts), timeout_s)
            return schema.code_revision
    except OperationalError as error:
        raise DatabaseError(unreachable(engine, error)) from None
    except ProgrammingError as error:
        raise DatabaseError(f"The migrator login lacks a required privilege: {brief(error)}") from None


def downgrade(engine: Engine, revision: str, folder: Path = MIGRATIONS) -> None:
    """Downgrade the schema to an older revision and lose what newer ones added. Raises DatabaseError."""
    from alembic import command

    config = _alembic_config(folder)
    known = [script.revision for script in _script_directory(folder).walk_revisions()]
    if revision not in known:
        raise DatabaseError(f"revision: {revision!r} is not known; permitted: {', '.join(sorted(known))}")
    with _upgrade_lock(engine, TIMEOUT_S), engine.begin() as connection:
        _set_limits(connection, LOCK_TIMEOUT_S)
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


# -- steps -------------------------------------------------------------------------------------


def _alembic_config(folder: Path) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder))
    return config


def _script_directory(folder: Path) -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_alembic_config(folder))


def _revision_after(revision: str | None, scripts: "ScriptDirectory") -> str:
    return next(script.revision for script in scripts.walk_revisions() if script.down_revision == revision)


@contextmanager
def _upgrade_lock(engine: Engine, timeout_s: float) -> Iterator[Connection]:
    """Let one upgrade run at a time: two at once would both try to create the tables.

    The lock is on a table, because any login may take an advisory lock, and in a transaction, because a pooler gives
    each transaction of a connection another session. Its mode admits readers and Alembic's own writes. Yields the
    connection that holds it.
    """
    _create_version_table(engine)
    deadline = time.monotonic() + timeout_s
    with engine.connect() as connection:
        while not _try_upgrade_lock(connection):
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"Another upgrade has run for {timeout_s:.0f} s. Wait until it ends, then run it again: "
                    "darkroom db upgrade"
                )
            time.sleep(LOCK_INTERVAL_S)
        yield connection


def _try_upgrade_lock(connection: Connection) -> bool:
    """Take the lock until the end of the transaction. Returns False if another upgrade holds it.

    No statement waits for it: CREATE INDEX CONCURRENTLY would wait for that statement in turn.
    """
    _set_limits(connection, LOCK_TIMEOUT_S)
    try:
        connection.execute(text("LOCK TABLE alembic_version IN SHARE UPDATE EXCLUSIVE MODE NOWAIT"))
    except OperationalError as error:
        if not _is_lock_timeout(error):
            raise
        connection.rollback()
        return False
    return True


def _create_version_table(engine: Engine) -> None:
    for attempt in range(CREATE_ATTEMPTS):
        try:
            with engine.begin() as connection:
                connection.execute(text(VERSION_TABLE))
            return
        except (IntegrityError, ProgrammingError) as error:
            # Postgres does not keep two from creating a table at once, in spite of IF NOT EXISTS. Depending on how far
            # the other is, this one fails at an index of the catalog, at the table's type or at the table.
            if getattr(error.orig, "sqlstate", None) not in ALREADY_THERE or attempt + 1 == CREATE_ATTEMPTS:
                raise


def _set_limits(connection: Connection, lock_timeout_s: float) -> None:
    """Set the limits of this transaction: only on waiting for locks, whatever the login or the database has set."""
    cursor = connection.connection.cursor()
    cursor.execute(f"""
        SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '{lock_timeout_s * 1000:.0f}' ELSE '0' END, true)
        FROM pg_settings WHERE name IN
            ('lock_timeout', 'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')
    """)


def _run_step(engine: Engine, scripts: "ScriptDirectory", revision: str, timeout_s: float) -> None:
    """Run one migration, and retry after a pause while it cannot lock a table. Raises DatabaseError."""
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while not _try_step(engine, scripts, revision):
        left_s = deadline - time.monotonic()
        if left_s < 0:
            raise DatabaseError(
                f"Migration {revision} could not get its lock within {timeout_s:.0f} s. Long-running transactions: "
                f"{_long_transactions(engine)}. End them, then run it again: darkroom db upgrade"
            )
        time.sleep(min(pause_s, left_s + 0.1))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _try_step(engine: Engine, scripts: "ScriptDirectory", revision: str) -> bool:
    """Run one migration. Returns False if it could not lock a table."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext

    def steps(current: Any, _: Any) -> Any:
        return scripts._upgrade_revs(revision, current)

    try:
        with engine.connect() as connection:
            # In each transaction, because a step may have several.
            event.listen(connection, "begin", lambda begun: _set_limits(begun, LOCK_TIMEOUT_S))
            config = Config(attributes={"connection": connection})
            with EnvironmentContext(config, scripts, fn=steps, destination_rev=revision):
                scripts.run_env()
    except OperationalError as error:
        if not _is_lock_timeout(error):
            raise
        return False
    return True


def _is_lock_timeout(error: OperationalError) -> bool:
    return getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE


def _long_transactions(engine: Engine) -> str:
    """Describe this database's longest transactions, so that a person can find and end them."""
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT pid, application_name, extract(epoch FROM now() - xact_start)::int AS seconds
                FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
                    AND backend_type = 'client backend' AND now() - xact_start > interval '1 second'
                    AND pid NOT IN (SELECT pid FROM pg_locks WHERE relation = 'alembic_version'::regclass
                        AND mode = 'ShareUpdateExclusiveLock')  -- the upgrade's own lock
                ORDER BY xact_start LIMIT 5
            """)
        ).all()
    transactions = [f"pid {row.pid} ({row.application_name or 'no name'}, {row.seconds} s)" for row in rows]
    return ", ".join(transactions) or "none that this login sees"
