"""A service with two tenants: one attacks it, and the other one must not notice."""

from collections.abc import Iterator

import pytest

from tests.support.stack import Process, Stack
from tests.support.tenants import QUICK, Tenant, end_open_jobs, make_tenant


@pytest.fixture(scope="module")
def attacker(stack: Stack) -> Tenant:
    """A tenant that does what it should not."""
    return make_tenant(stack, "attacker")


@pytest.fixture(scope="module")
def neighbour(stack: Stack) -> Tenant:
    """A tenant whose jobs must be done all the same."""
    return make_tenant(stack, "neighbour")


@pytest.fixture(scope="module")
def hostile_dispatcher(stack: Stack) -> Iterator[Process]:
    """A dispatcher that notices a lost process soon."""
    with stack.process("dispatcher", **QUICK) as process:
        process.wait_for("serves")
        yield process


@pytest.fixture(scope="module")
def hostile_worker(stack: Stack) -> Iterator[Process]:
    """A worker that is noticed soon if it is lost."""
    with stack.process("worker", **QUICK) as process:
        process.wait_for("serves queues")
        yield process


@pytest.fixture
def service(stack: Stack, hostile_dispatcher: Process, hostile_worker: Process) -> Iterator[tuple[Process, Process]]:
    """A dispatcher and a worker, which must still run after the test. Jobs that the test leaves open are deleted."""
    yield hostile_dispatcher, hostile_worker
    for process in (hostile_dispatcher, hostile_worker):
        assert process.child.poll() is None, process.log.read_text()[-4000:]
    end_open_jobs(stack)
