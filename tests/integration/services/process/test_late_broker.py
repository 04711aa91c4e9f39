"""Processes start without their broker: they find work by polling, and connect when it comes."""

import time
from collections.abc import Iterator

import pytest

from services.local_stack.state import read
from tests.chaos.proxy import Proxy
from tests.support.http import HealthClient, free_port, scrape_metrics
from tests.support.stack import Stack

pytestmark = pytest.mark.long

AWAY = "The broker at redis://"


@pytest.fixture
def broker_port() -> int:
    """The port of a broker that does not run yet."""
    return free_port()


@pytest.fixture
def variables(stack: Stack, broker_port: int) -> dict[str, str]:
    state = read(stack.root)
    assert state is not None
    return {"DARKROOM_BROKER_URL": state.broker_url.replace(f":{state.broker_port}/", f":{broker_port}/")}


@pytest.fixture
def ports(stack: Stack, variables: dict[str, str]) -> Iterator[tuple[int, int]]:
    """The ports of the metrics of a dispatcher and a worker that have started without a broker."""
    ports = free_port(), free_port()
    with (
        stack.process("dispatcher", **variables, DARKROOM_METRICS_PORT=str(ports[0])) as dispatcher,
        stack.process("worker", **variables, DARKROOM_METRICS_PORT=str(ports[1])) as worker,
    ):
        dispatcher.wait_for("serves")
        worker.wait_for("serves queues")
        for process in (dispatcher, worker):
            (line,) = [line for line in process.log.read_text().splitlines() if AWAY in line]
            assert "WARNING" in line
            assert "Work is found by polling until it answers." in line
        yield ports
        for process in (dispatcher, worker):
            process.wait_for("the broker answers")
            assert "Traceback" not in process.log.read_text()


def wait_for_broker(port: int, value: float) -> None:
    deadline = time.monotonic() + 90
    while scrape_metrics(port)["darkroom_broker_up"] != value:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_broker_that_comes_later(stack: Stack, ports: tuple[int, int], broker_port: int) -> None:
    for port in ports:
        HealthClient(port).wait_until("readyz", lambda reasons: not reasons)
        assert scrape_metrics(port)["darkroom_broker_up"] == 0
    job = stack.submit({"items": [{"class_label": 1}], "steps": 2})
    assert stack.wait(job, timeout=30).state == "succeeded"
    state = read(stack.root)
    assert state is not None
    proxy = Proxy(state.broker_port, broker_port)
    try:
        for port in ports:
            wait_for_broker(port, 1)
        proxy.set("reset")
        wait_for_broker(ports[1], 0)
        proxy.set("pass")
        for port in ports:
            wait_for_broker(port, 1)
    finally:
        proxy.close()


def test_a_broker_that_is_lost_as_soon_as_it_answers(stack: Stack) -> None:
    state = read(stack.root)
    assert state is not None
    proxy, port = Proxy(state.broker_port), free_port()
    url = state.broker_url.replace(f":{state.broker_port}/", f":{proxy.port}/")
    try:
        with stack.process("worker", DARKROOM_BROKER_URL=url, DARKROOM_METRICS_PORT=str(port)) as worker:
            worker.wait_for("serves queues")
            for delay in range(12):
                proxy.set("pass")
                wait_for_broker(port, 1)
                time.sleep(delay / 500)
                proxy.set("reset")
                wait_for_broker(port, 0)
            worker.child.terminate()
            assert worker.child.wait(20) == 0
    finally:
        proxy.close()


def test_a_process_stops_while_its_broker_is_away(stack: Stack, variables: dict[str, str]) -> None:
    for name in ("dispatcher", "worker"):
        with stack.process(name, **variables) as process:
            process.wait_for("serves")
            process.child.terminate()
            assert process.child.wait(20) == 0
