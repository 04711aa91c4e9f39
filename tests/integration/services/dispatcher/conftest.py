"""An empty queue, a process that claims, and the planning of jobs in small batches."""

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from services.dispatcher import finalizer, planner, sharding
from services.job_queue import processes
from services.job_queue.states import ProcessKind
from tests.support.job_queue import empty_queue
from tests.support.stack import Stack


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    """The owner's connections to a queue that is empty before and after the test."""
    engine = stack.engine("migrator")
    empty_queue(engine)
    yield engine
    empty_queue(engine)


@pytest.fixture
def worker_id(engine: Engine) -> uuid.UUID:
    """A process that is registered and does nothing by itself."""
    with engine.begin() as connection:
        return processes.register(connection, ProcessKind.WORKER)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 32 images, with a tick after each and no other, and pages of 10."""
    monkeypatch.setattr(planner, "CHECK_S", 3600.0)
    monkeypatch.setattr(sharding, "BATCH_IMAGES", 32)
    monkeypatch.setattr(finalizer, "PAGE", 10)
