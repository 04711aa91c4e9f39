"""The database's schema: brought to this version step by step, without standing in anybody's way.

A step that cannot have a table's lock at once gives up and tries again, for whoever asks for a strong lock and waits
makes everyone after it wait too. Which code works with which schema is recorded in the database by the migrations,
so that older code on a newer schema, after a rollback, knows whether it may run.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

import migrations
from services.database.connections import DatabaseError, brief, unreachable

MIGRATIONS = Path(migrations.__file__).parent
NEEDED = "0004"  # what this code's workers, dispatchers and commands work with at least
LOCK_TIMEOUT_S = 3.0
PATIENCE_S = 600.0
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
LOCK = "hashtext('darkroom migrations')"


@dataclass(frozen=True)
class Schema:
    """What a database has, and what this code is."""

    revision: str | None  # None: a database without tables, or one whose revision this login may not read
    head: str  # this code's newest
    oldest_code: str | None  # recorded in the database for its revision; None: not recorded

    @property
    def newer(self) -> bool:
        """Whether the schema is newer than this code."""
        return self.revision is not None and self.revision > self.head

    def problem(self, needed: str = NEEDED) -> str | None:
        """Why this code cannot work with the schema, and what to do; or None."""
        if self.revision is not None and self.revision < needed:
            return (f"The database's schema, {self.revision}, is older than {needed}, which this version needs. "
                    "Bring it up with: darkroom db upgrade")  # fmt: skip
        if self.newer and (self.oldest_code is None or self.head < self.oldest_code):
            return (f"The database's schema, {self.revision}, works with versions from {self.oldest_code} on, and this "
                    f"one is {self.head}. Use a newer version, or downgrade the database with the newer one's: "
                    f"darkroom db downgrade {self.head}")  # fmt: skip
        return None


def scripts(folder: Path = MIGRATIONS) -> Config:
    """Alembic's configuration for the migrations of a folder."""
    config = Config()
    config.set_main_option("script_location", str(folder))
    return config


def head(folder: Path = MIGRATIONS) -> str:
    """This code's newest revision."""
    newest = ScriptDirectory.from_config(scripts(folder)).get_current_head()
    assert newest is not None
    return newest


def look(connection: Connection, folder: Path = MIGRATIONS) -> Schema:
    """The schema of the database. A login that may not read the revision sees only that there are tables."""
    revision = oldest = None
    # A role's login could not read the revision before 0005.
    if connection.scalar(text("SELECT has_table_privilege(to_regclass('public.alembic_version'), 'SELECT')")):
        revision = connection.scalar(text("SELECT max(version_num) FROM alembic_version"))
        if connection.scalar(text("SELECT to_regclass('public.schema_revisions') IS NOT NULL")):
            oldest = connection.scalar(
                text("SELECT oldest_code FROM schema_revisions WHERE revision = :revision"), {"revision": revision}
            )
    return Schema(revision, head(folder), oldest)


def check(engine: Engine, needed: str = NEEDED) -> Schema:
    """Raise DatabaseError unless the database answers and has a schema that this code works with."""
    try:
        with engine.connect() as connection:
            present = connection.scalar(text("SELECT to_regclass('public.jobs') IS NOT NULL"))
            schema = look(connection)
    except OperationalError as error:
        raise DatabaseError(unreachable(engine, error)) from None
    if not present:
        raise DatabaseError("The database has no Darkroom tables yet. Make them with: darkroom db upgrade")
    if problem := schema.problem(needed):
        raise DatabaseError(problem)
    return schema


def upgrade(engine: Engine, folder: Path = MIGRATIONS, patience_s: float = PATIENCE_S) -> str:
    """Bring the schema to the newest revision and return what it is then. Running it again changes nothing.

    Each step is a transaction of its own, so an upgrade that is interrupted goes on where it was. A newer schema that
    this code works with is left as it is. Raises DatabaseError.
    """
    try:
        with alone(engine), engine.connect() as connection:
            while (schema := look(connection, folder)).revision != schema.head:
                connection.rollback()
                if schema.newer:
                    if problem := schema.problem():
                        raise DatabaseError(problem)
                    return str(schema.revision)
                step(engine, scripts(folder), following(schema.revision, folder), patience_s)
            return schema.head
    except OperationalError as error:
        raise DatabaseError(unreachable(engine, error)) from None
    except ProgrammingError as error:
        raise DatabaseError(f"The migrator's login may not do what it takes: {brief(error)}") from None


@contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """Two upgrades at once would both try to create the tables; the second waits here."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
        try:
            yield
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock({LOCK})"))


def following(revision: str | None, folder: Path) -> str:
    """The revision after one."""
    found = ScriptDirectory.from_config(scripts(folder)).walk_revisions()
    return next(one.revision for one in found if one.down_revision == revision)


def step(engine: Engine, config: Config, revision: str, patience_s: float) -> None:
    """One migration; where a lock is not to be had, again after a pause. Raises DatabaseError."""
    deadline = time.monotonic() + patience_s
    for attempt in range(1_000_000):
        try:
            with engine.connect() as connection:
                # `SET LOCAL` would end with the transaction, and a step may have several.
                connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'"))
                connection.commit()
                config.attributes["connection"] = connection
                try:
                    command.upgrade(config, revision)
                finally:  # the setting is not for whoever has the connection next
                    connection.rollback()
                    connection.execute(text("RESET lock_timeout"))
                    connection.commit()
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                raise
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"Migration {revision} could not have its lock within {patience_s:.0f} s. Transactions that have "
                    f"been open for long: {holders(engine)}. End them, then run it again: darkroom db upgrade"
                ) from None
            time.sleep(min(PAUSES_S[min(attempt, len(PAUSES_S) - 1)], max(0.0, deadline - time.monotonic()) + 0.1))


def holders(engine: Engine) -> str:
    """Who holds locks on this database's tables for longest: what a person needs to find them."""
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
    told = [f"pid {row.pid} ({row.application_name or 'no name'}, {row.seconds} s)" for row in rows]
    return ", ".join(told) or "none that this login sees"


def downgrade(engine: Engine, revision: str, folder: Path = MIGRATIONS) -> None:
    """Bring the schema back to an older revision. What newer ones added is lost. Raises DatabaseError."""
    known = [one.revision for one in ScriptDirectory.from_config(scripts(folder)).walk_revisions()]
    if revision not in known:
        raise DatabaseError(f"revision: {revision!r} is not known; permitted: {', '.join(sorted(known))}")
    config = scripts(folder)
    with alone(engine), engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
