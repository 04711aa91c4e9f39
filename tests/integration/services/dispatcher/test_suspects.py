"""Planning that is a suspect waits for an idle dispatcher, and others wait for it only for a while."""

import threading
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import planner
from services.dispatcher.attempts import Attempts
from services.job_queue.leases import Lease
from services.observability import metrics
from services.process.watchdog import Watchdog
from tests.support.job_queue import REQUEST
from tests.support.stack import Stack

ENDED = threading.Event()


@pytest.fixture
def busy(stack: Stack, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Attempts, list[uuid.UUID]]]:
    """A dispatcher whose first plan goes on until ENDED is set, and the jobs that it has begun to plan."""
    begun: list[uuid.UUID] = []

    def plan(_: Engine, __: object, lease: Lease, tick: object) -> None:
        begun.append(lease.job_id)
        ENDED.wait(60)

    monkeypatch.setattr(planner, "plan_job", plan)
    ENDED.clear()
    found = Attempts(engine, stack.store(), Watchdog(60), lambda *_: None, lambda: None)
    yield found, begun
    ENDED.set()
    found.stop(10)


def submit(stack: Stack, engine: Engine, *, suspect: bool = False) -> uuid.UUID:
    job_id = stack.submit(REQUEST)
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET suspect = :suspect WHERE job_id = :id"),
                           {"suspect": suspect, "id": job_id})  # fmt: skip
    return job_id


@pytest.mark.parametrize(("busy_s", "waits"), [(5, True), (15, False), (61, True), (75, False)])
def test_a_busy_dispatcher_waits_for_a_suspect_at_the_beginning_of_each_minute(
    stack: Stack,
    engine: Engine,
    worker_id: uuid.UUID,
    busy: tuple[Attempts, list[uuid.UUID]],
    busy_s: float,
    waits: bool,
) -> None:
    dispatcher, begun = busy
    long = submit(stack, engine)
    assert dispatcher.claim(worker_id)
    submit(stack, engine, suspect=True)
    other = submit(stack, engine)
    dispatcher.busy_since -= busy_s
    assert dispatcher.claim(worker_id) == (not waits)
    ENDED.set()
    dispatcher.stop(10)
    assert begun == ([long] if waits else [long, other])


def test_an_attempt_without_progress_is_shown(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, busy: tuple[Attempts, list[uuid.UUID]]
) -> None:
    dispatcher, _ = busy
    submit(stack, engine)
    assert dispatcher.claim(worker_id)
    dispatcher.claim(worker_id)
    assert metrics.SILENT_ATTEMPTS._value.get() == 0
    (attempt,) = dispatcher._attempts()
    attempt.progressed_at -= 31
    dispatcher.claim(worker_id)
    assert metrics.SILENT_ATTEMPTS._value.get() == 1
    ENDED.set()
    dispatcher.stop(10)
    dispatcher.claim(worker_id)
    assert metrics.SILENT_ATTEMPTS._value.get() == 0
