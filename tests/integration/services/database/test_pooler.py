"""The service behind a pooler in transaction mode, and what it says about notifications there."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from services.database import connections, schema
from services.job_queue import notifications
from tests.integration.services.database.test_upgrades import another_database
from tests.support.commands import Darkroom
from tests.support.job_requests import JOB
from tests.support.pgbouncer import pooler, through
from tests.support.stack import Stack


@pytest.fixture(scope="module")
def port(stack: Stack) -> Iterator[int]:
    with pooler(stack) as port:
        yield port


def test_upgrades_one_at_a_time(stack: Stack, port: int) -> None:
    with another_database(stack, "pooled") as direct, ThreadPoolExecutor(3) as pool:
        engine = connections.connect(through(port, direct.url))
        try:
            assert set(pool.map(lambda _: schema.upgrade(engine), range(3))) == {schema.newest_revision()}
            schema.downgrade(engine, "0005")
            assert schema.upgrade(engine) == schema.newest_revision()
            with direct.connect() as connection:  # no session keeps a setting of the upgrade
                assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
            with engine.connect() as connection:
                assert connection.scalar(text("SELECT current_setting('lock_timeout')")) == "0"
        finally:
            engine.dispose()


def test_jobs_are_submitted_sampled_and_cancelled(stack: Stack, port: int, darkroom_here: Darkroom) -> None:
    urls = {role: through(port, stack.engine(role).url) for role in ("dispatcher", "worker", "submitter", "observer")}
    with (
        stack.process("dispatcher", DARKROOM_DATABASE_URL=urls["dispatcher"]) as dispatcher,
        stack.process("worker", DARKROOM_DATABASE_URL=urls["worker"]) as worker,
    ):
        worker.wait_for("serves queues")
        client = {"DARKROOM_DATABASE_URL": urls["submitter"]}
        submitted = darkroom_here("jobs", "submit", "--model", "tiny", "--request", json.dumps(JOB), **client)
        assert submitted.returncode == 0, submitted.stderr
        watched = darkroom_here("jobs", "watch", submitted.stdout.strip(), **client)
        assert watched.returncode == 0, watched.stdout + worker.log.read_text()
        assert darkroom_here("jobs", "cancel", "--all", **client).returncode == 0
        done = darkroom_here("check", DARKROOM_DATABASE_URL=urls["dispatcher"])
        assert done.returncode == 0, done.stdout
        dispatcher.wait_for("notifications do not arrive")
        time.sleep(3)
        assert dispatcher.log.read_text().count("notifications do not arrive") == 1
        assert worker.log.read_text().count("notifications do not arrive") == 1
        assert "database:" not in dispatcher.log.read_text()


def test_the_limits_of_a_login_hold_behind_it(stack: Stack, port: int) -> None:
    engine = connections.connect(through(port, stack.engine("worker").url))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT current_setting('idle_in_transaction_session_timeout')")) == "5s"
    engine.dispose()


def test_notifications_arrive_without_a_pooler_and_through_sessions(stack: Stack) -> None:
    with pooler(stack, mode="session") as port:
        for url in (stack.engine("dispatcher").url, stack.engine("dispatcher").url.set(port=port)):
            heard = notifications.listen(url, timeout_s=0.1)
            assert next(heard) in (True, False)
            with stack.engine("migrator").begin() as connection:
                connection.execute(text(f"NOTIFY {notifications.CHANNEL}"))
            assert any(next(heard) for _ in range(50))
            del heard  # closes the connection


def test_notifications_that_do_not_arrive_are_noticed(stack: Stack, port: int) -> None:
    began = time.monotonic()
    with pytest.raises(notifications.NotDelivered):
        next(notifications.listen(stack.engine("dispatcher").url.set(port=port)))
    assert time.monotonic() - began < 10
