"""A lock of the service that is never free is noticed."""

import logging

import pytest
from sqlalchemy import Engine

from services.dispatcher.upkeep import LOCK_MISSES, Upkeep
from services.job_queue import maintenance
from services.observability import metrics
from services.process.watchdog import Watchdog
from tests.support.job_queue import REQUEST, call_function
from tests.support.stack import Stack


def misses() -> float:
    return metrics.LOCK_MISSES.labels("reconcile")._value.get()


def test_a_lock_that_is_never_free_is_counted_and_told_once(
    stack: Stack, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = stack.submit(REQUEST)
    call_function(stack, "cancel_job", job_id)
    upkeep, before = Upkeep(engine, Watchdog(60), 30), misses()
    with engine.connect() as other:
        assert maintenance.try_lock(other)
        with caplog.at_level(logging.WARNING, "darkroom.dispatcher"):
            for _ in range(LOCK_MISSES - 1):
                assert not upkeep.stop_jobs()
            assert caplog.messages == []
            for _ in range(5):
                upkeep.stop_jobs()
        other.rollback()
    assert misses() - before == LOCK_MISSES + 4
    (message,) = caplog.messages
    assert "wait for the lock `reconcile`" in message
    assert stack.job(job_id).state == "submitted"
    assert upkeep.stop_jobs()
    assert stack.job(job_id).state == "cancelled"
