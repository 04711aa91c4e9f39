"""One upgrade runs at a time, whatever tenants, time-outs and poolers do."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text

from services.database import connections, schema
from services.database.connections import DatabaseError
from tests.integration.services.database.test_upgrades import another_database
from tests.support.stack import Stack

MIGRATION = """
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    op.execute("CREATE TABLE once (id integer)")
    op.execute("SELECT pg_sleep({seconds})")
"""


def write_migrations(folder: Path, seconds: float) -> Path:
    """Write migrations whose only step takes some time."""
    (folder / "versions").mkdir()
    (folder / "versions" / "0001.py").write_text(MIGRATION.format(seconds=seconds))
    (folder / "env.py").write_text((schema.MIGRATIONS / "env.py").read_text())
    return folder


def as_tenant(stack: Stack, engine: Engine) -> Engine:
    url = stack.engine("submitter").url.set(database=engine.url.database)
    return connections.connect(url.render_as_string(hide_password=False))


def test_a_tenant_cannot_hold_up_an_upgrade(stack: Stack) -> None:
    with another_database(stack, "held") as engine:
        schema.upgrade(engine)
        schema.downgrade(engine, "0004")
        tenant = as_tenant(stack, engine)
        with engine.begin() as connection:
            connection.execute(text("GRANT SELECT ON alembic_version TO PUBLIC"))  # as from 0005 on
        with tenant.connect() as holder:
            holder.execute(text("SELECT pg_advisory_lock(hashtext('darkroom migrations'))"))
            holder.execute(text("LOCK TABLE alembic_version IN ACCESS SHARE MODE"))
            for mode in ("SHARE UPDATE EXCLUSIVE", "SHARE", "ACCESS EXCLUSIVE"):
                with pytest.raises(Exception, match="permission denied"), holder.begin_nested():
                    holder.execute(text(f"LOCK TABLE alembic_version IN {mode} MODE"))
            assert schema.upgrade(engine, timeout_s=5) == schema.newest_revision()
        tenant.dispose()


def test_several_first_upgrades_at_once_all_succeed(stack: Stack) -> None:
    with another_database(stack, "first") as engine, ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: schema.upgrade(engine), range(4))) == {schema.newest_revision()}


def test_the_table_of_the_revision_is_created_once_however_far_another_upgrade_is(stack: Stack) -> None:
    with another_database(stack, "version_table") as engine, ThreadPoolExecutor(4) as pool:
        start = threading.Barrier(4)

        def create(_: int) -> None:
            start.wait()
            schema._create_version_table(engine)

        for _ in range(150):
            assert list(pool.map(create, range(4))) == [None] * 4
            with engine.begin() as connection:
                connection.execute(text("DROP TABLE alembic_version"))


def test_an_upgrade_outlasts_every_limit_on_time_and_keeps_its_lock(stack: Stack, tmp_path: Path) -> None:
    folder = write_migrations(tmp_path, seconds=1.5)
    with another_database(stack, "slow") as engine:
        with engine.begin() as connection:
            for limit in ("idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout"):
                connection.execute(text(f"ALTER DATABASE slow SET {limit} = '400ms'"))
        engine.dispose()
        done: list[str] = []
        first = threading.Thread(target=lambda: done.append(schema.upgrade(engine, folder)))
        first.start()
        time.sleep(0.7)
        with pytest.raises(DatabaseError, match=r"Another upgrade has run for 0 s.*darkroom db upgrade"):
            schema.upgrade(engine, folder, timeout_s=0.2)
        assert schema.upgrade(engine, folder) == "0001"  # it waits for the first
        first.join()
        assert done == ["0001"]


def test_an_upgrade_whose_lock_is_lost_does_not_go_on(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_migrations(tmp_path, seconds=0)
    with another_database(stack, "lost") as engine:
        read_schema = schema.read_schema

        def end_the_lock(*arguments: object) -> schema.Schema:
            with stack.engine("migrator").begin() as connection:
                connection.execute(
                    text("""
                        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                        WHERE datname = 'lost' AND query LIKE 'LOCK TABLE%'
                    """)
                )
            return read_schema(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(schema, "read_schema", end_the_lock)
        with pytest.raises(DatabaseError, match="terminating connection"):
            schema.upgrade(engine, folder)
        with psycopg.connect(
            engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        ) as connection:
            assert connection.execute("SELECT to_regclass('once')").fetchone() == (None,)
