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
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

import migrations
from services.database.connections import DatabaseError, brief, unreachable

if TYPE_CHECKING:  # every command checks the schema, few change it, and Alembic is slow to import
    from alembic.config import Config
    from alembic.script import ScriptDirectory

MIGRATIONS = Path(migrations.__file__).parent
OLDEST_SCHEMA = "0007"  # the oldest revision that this code's workers, dispatchers and commands work with
LOCK_TIMEOUT_S = 3.0
TIMEOUT_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
UPGRADE_LOCK = "hashtext('darkroom migrations')"
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
        with _upgrade_lock(engine), engine.connect() as connection:
            while (schema := read_schema(connection, folder)).revision != schema.code_revision:
                connection.rollback()
                if schema.is_newer:
                    if problem := schema.problem():
                        raise DatabaseError(problem)
                    return str(schema.revision)
                _run_step(engine, _alembic_config(folder), _revision_after(schema.revision, folder), timeout_s)
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
    with _upgrade_lock(engine), engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
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


def _revision_after(revision: str | None, folder: Path) -> str:
    scripts = _script_directory(folder).walk_revisions()
    return next(script.revision for script in scripts if script.down_revision == revision)


@contextmanager
def _upgrade_lock(engine: Engine) -> Iterator[None]:
    """Let one upgrade run at a time: two at once would both try to create the tables."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({UPGRADE_LOCK})"))
        try:
            yield
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock({UPGRADE_LOCK})"))


def _run_step(engine: Engine, config: "Config", revision: str, timeout_s: float) -> None:
    """Run one migration, and retry after a pause while it cannot lock a table. Raises DatabaseError."""
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while not _try_step(engine, config, revision):
        left_s = deadline - time.monotonic()
        if left_s < 0:
            raise DatabaseError(
                f"Migration {revision} could not get its lock within {timeout_s:.0f} s. Long-running transactions: "
                f"{_long_transactions(engine)}. End them, then run it again: darkroom db upgrade"
            )
        time.sleep(min(pause_s, left_s + 0.1))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _try_step(engine: Engine, config: "Config", revision: str) -> bool:
    """Run one migration. Returns False if it could not lock a table."""
    from alembic import command

    try:
        with engine.connect() as connection:
            # `SET LOCAL` would end with the transaction, and a step may have several.
            connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'"))
            connection.commit()
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, revision)
            finally:  # The next user of this pooled connection must not inherit the setting.
                connection.rollback()
                connection.execute(text("RESET lock_timeout"))
                connection.commit()
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


def _long_transactions(engine: Engine) -> str:
    """Describe this database's longest transactions, so that a person can find and end them."""
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT pid, application_name, extract(epoch FROM now() - xact_start)::int AS seconds
                FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
                    AND backend_type = 'client backend' AND now() - xact_start > interval '1 second'
                ORDER BY xact_start LIMIT 5
            """)
        ).all()
    transactions = [f"pid {row.pid} ({row.application_name or 'no name'}, {row.seconds} s)" for row in rows]
    return ", ".join(transactions) or "none that this login sees"
