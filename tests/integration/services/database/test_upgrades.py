"""The schema changes while processes run: old code works with the new schema, new code with the old, and none waits."""

import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from services.database import connections, schema
from services.database.connections import DatabaseError
from services.database.schema import OLDEST_SCHEMA as OLDEST
from tests.support.commands import Darkroom
from tests.support.stack import Stack, fresh_stack

pytestmark = pytest.mark.long

BEFORE = "46cb30a3ccb15b57fc71b18dd2498dcea9b29704"  # the last commit whose schema was 0005
REQUEST = {"items": [{"class_label": 1}], "images_per_item": 3, "steps": 4, "guidance_scale": 1.0}
ROWS = 1_000_000


@contextmanager
def another_database(stack: Stack, name: str, owner: str = "postgres", password: str = "") -> Iterator[Engine]:
    """An empty database next to the stack's."""
    administrator = stack.engine("migrator").execution_options(isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f'CREATE DATABASE {name} OWNER "{owner}"'))
    url = stack.engine("migrator").url.set(database=name)
    if password:
        url = url.set(username=owner, password=password)
    engine = connections.connect(url.render_as_string(hide_password=False))
    try:
        yield engine
    finally:
        engine.dispose()
        with administrator.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def test_the_old_code_works_with_the_new_schema(tmp_path: Path) -> None:
    archive = subprocess.run(["git", "archive", BEFORE, "services", "training", "migrations"], capture_output=True)
    if archive.returncode:
        pytest.skip("the history has no earlier version (a shallow clone?)")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(tmp_path, filter="data")
    with fresh_stack() as stack:
        environment = {**os.environ, "DARKROOM_ROOT": str(stack.root), "PYTHONPATH": str(tmp_path)}
        said = subprocess.run([sys.executable, "-c", "import services; print(services.__path__[0])"],
                              cwd=tmp_path, env=environment, capture_output=True, text=True)  # fmt: skip
        assert said.stdout.startswith(str(tmp_path))
        children = []
        with (stack.root / "logs" / "old.log").open("w") as log:
            for name in ("dispatcher", "worker"):
                command = [sys.executable, "-m", "services.cli", name]
                children.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log))
        try:
            job = stack.submit(REQUEST)
            assert stack.wait(job).state == "succeeded", (stack.root / "logs" / "old.log").read_text()
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(40)


def test_the_new_code_refuses_the_old_schema(stack: Stack) -> None:
    with another_database(stack, "not_upgraded") as engine:
        schema.upgrade(engine)
        schema.downgrade(engine, "0005")
        with pytest.raises(
            DatabaseError, match=rf"0005, is older than {OLDEST}, which this version needs\. .*db upgrade"
        ):
            schema.check_schema(engine)


def test_older_code_on_a_newer_schema_knows_whether_it_may_run(stack: Stack) -> None:
    with another_database(stack, "rolled_back") as engine:
        assert schema.upgrade(engine) == schema.newest_revision()
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            connection.execute(
                text("INSERT INTO schema_revisions VALUES ('9999', :head)"), {"head": schema.newest_revision()}
            )
        assert schema.upgrade(engine) == "9999"  # without "Can't locate revision", and without a change
        assert schema.check_schema(engine).revision == "9999"
        with engine.begin() as connection:
            connection.execute(text("UPDATE schema_revisions SET oldest_code = '9000' WHERE revision = '9999'"))
        for refused in (schema.upgrade, schema.check_schema):
            with pytest.raises(DatabaseError, match=r"9999, works with versions from 9000 on, and this one is \d{4}"):
                refused(engine)


def test_a_schema_that_is_too_old_is_named(stack: Stack) -> None:
    with another_database(stack, "old") as engine:
        with pytest.raises(DatabaseError, match="no Darkroom tables yet"):
            schema.check_schema(engine)
        schema.upgrade(engine)
        schema.downgrade(engine, "0003")
        with pytest.raises(DatabaseError, match=rf"0003, is older than {OLDEST}.*darkroom db upgrade"):
            schema.check_schema(engine)
        with pytest.raises(DatabaseError, match="'0999' is not known"):
            schema.downgrade(engine, "0999")


def test_writers_hardly_wait_while_a_million_rows_are_migrated(stack: Stack) -> None:
    with another_database(stack, "large") as engine:
        schema.upgrade(engine)
        schema.downgrade(engine, "0004")
        with engine.begin() as connection:
            job = connection.scalar(text("INSERT INTO jobs (model, request) VALUES ('tiny', '{}') RETURNING id"))
            connection.execute(text("ALTER TABLE work DISABLE TRIGGER ALL"))
            connection.execute(
                text("""
                    INSERT INTO work (job_id, kind, queue, tenant, start, stop, cost, state)
                    SELECT :job, 'sample', 'default', 'default', n, n + 1, 10, 'ready'
                    FROM generate_series(1, :rows) n
                """),
                {"job": job, "rows": ROWS},
            )
            connection.execute(text("ALTER TABLE work ENABLE TRIGGER ALL"))
        waits, ended = [], threading.Event()

        def write() -> None:
            while not ended.is_set():
                began = time.monotonic()
                with engine.begin() as connection:
                    connection.execute(text("UPDATE work SET cost = cost + 1 WHERE id = 1"))
                    connection.execute(text("INSERT INTO jobs (model, request) VALUES ('tiny', '{}')"))
                waits.append(time.monotonic() - began)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert schema.upgrade(engine) == schema.newest_revision()
        finally:
            ended.set()
            writer.join()
        assert waits
        assert max(waits) < schema.LOCK_TIMEOUT_S, f"a writer waited {max(waits):.2f} s"
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT sum(images) FROM queue_load")) == ROWS


MIGRATION = """
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    op.execute("ALTER TABLE busy ADD COLUMN more integer")
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Migrations whose first step needs an exclusive lock."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "0001.py").write_text(MIGRATION)
    (tmp_path / "env.py").write_text((schema.MIGRATIONS / "env.py").read_text())
    return tmp_path


def test_a_step_that_cannot_get_its_lock_blocks_nobody_and_is_retried(
    stack: Stack, waiting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_S", 0.3)
    with another_database(stack, "busy") as engine:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE busy (id integer)"))
        with engine.connect() as reader:  # a report in an open transaction
            reader.execute(text("SELECT count(*) FROM busy"))
            time.sleep(1.1)
            with pytest.raises(
                DatabaseError, match=r"Migration 0001 could not get its lock.*pid \d+ \(darkroom, \d+ s\)"
            ):
                schema.upgrade(engine, waiting, timeout_s=0.5)
            threading.Timer(1.5, reader.close).start()
            done: list[str] = []
            upgrading = threading.Thread(target=lambda: done.append(schema.upgrade(engine, waiting, timeout_s=30)))
            upgrading.start()
            longest = 0.0
            while upgrading.is_alive():
                began = time.monotonic()
                with engine.begin() as connection:
                    connection.execute(text("INSERT INTO busy VALUES (1)"))
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.02)
            upgrading.join()
        assert done == ["0001"]
        assert longest < 1.0, f"a writer waited {longest:.2f} s"


def test_no_superuser_is_needed(darkroom_here: Darkroom, tmp_path: Path) -> None:
    """As on managed Postgres, the login owns its database, may create roles and has no other privilege."""
    with fresh_stack() as own:
        url = own.engine("migrator").url
        with own.engine("migrator").begin() as connection:
            connection.execute(text("CREATE ROLE owner LOGIN CREATEROLE PASSWORD 'a-long-password'"))
            groups = connection.scalars(text("SELECT rolname FROM pg_roles WHERE rolname LIKE 'darkroom_%'")).all()
            for group in groups:  # as if the owner had created them
                connection.execute(text(f"GRANT {group} TO owner WITH ADMIN OPTION"))
        with another_database(own, "managed", "owner", "a-long-password") as engine:
            assert schema.upgrade(engine) == schema.newest_revision()
            at = f"{url.host}:{url.port}/managed"
            for role in ("dispatcher", "submitter", "observer"):
                (tmp_path / role).write_text(f"postgresql://{role}_one:a-long-{role}@{at}\n")
            given = {"DARKROOM_DATABASE_URL": f"postgresql://owner:a-long-password@{at}",
                     "DARKROOM_LOGINS_DIR": str(tmp_path)}  # fmt: skip
            done = darkroom_here("db", "set-logins", **given)
            assert done.returncode == 0, done.stderr
            assert "dispatcher" in done.stdout
            client = connections.connect((tmp_path / "submitter").read_text().strip())
            with client.begin() as connection:
                connection.execute(text("INSERT INTO jobs (model, request) VALUES ('tiny', '{}')"))
            client.dispose()
            done = darkroom_here("db", "wait", DARKROOM_DATABASE_URL=(tmp_path / "dispatcher").read_text().strip())
            assert (done.returncode, schema.newest_revision() in done.stdout) == (0, True), done.stderr
            (tmp_path / "worker").write_text("worker_one:a-secret-password")
            done = darkroom_here("db", "set-logins", **given)
            assert done.returncode == 1
            assert "worker: not a database URL" in done.stderr
            assert "a-secret-password" not in done.stderr


def test_db_wait_says_what_it_waits_for_and_ends(stack: Stack, darkroom_here: Darkroom) -> None:
    away = "postgresql://nobody:a-secret-password@127.0.0.1:1/darkroom"
    done = darkroom_here("db", "wait", "--timeout", "0", DARKROOM_DATABASE_URL=away)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "a-secret-password" not in done.stdout + done.stderr


def test_db_revision_reports_the_revision(stack: Stack, darkroom_here: Darkroom) -> None:
    done = darkroom_here("db", "revision", "--json")
    assert done.returncode == 0, done.stderr
    assert f'"database": "{schema.newest_revision()}"' in done.stdout
