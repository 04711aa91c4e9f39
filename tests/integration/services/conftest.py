"""An empty queue, and a registered process that a test acts for."""

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

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
    """A worker that is registered and runs no process."""
    with engine.begin() as connection:
        return processes.register(connection, ProcessKind.WORKER)
