"""Health checks of real processes, with and without their services."""

import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from services.local_stack import lifecycle, processes
from services.registry import releases
from tests.support.http import HealthClient, scrape_metrics
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack, fresh_stack


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def stop_server(stack: Stack, part: str) -> Any:
    """Stop a server. Returns a function that restarts it."""
    process = processes.find(stack.root, part)
    assert process is not None
    process.send_signal(signal.SIGINT if part == "postgres" else signal.SIGKILL)
    process.wait(30)
    return lambda: lifecycle.start(stack.root)


def test_a_dispatcher_without_broker_or_database() -> None:
    health = HealthClient(free_port())
    quick = {"DARKROOM_METRICS_PORT": str(health.port), "DARKROOM_HEARTBEAT_S": "0.3", "DARKROOM_STALE_S": "1.5"}
    with fresh_stack() as own_stack, own_stack.process("dispatcher", **quick) as process:
        health.wait_until("readyz", lambda reasons: not reasons)
        assert health.reasons("healthz") == health.reasons("startupz") == []
        start_broker = stop_server(own_stack, "broker")
        time.sleep(2)
        assert health.reasons("readyz") == [], "without a broker work is found by looking"
        start_broker()
        start_postgres = stop_server(own_stack, "postgres")
        (reason,) = health.wait_until("readyz", bool)
        assert reason.startswith("Postgres has not answered for ")
        assert health.reasons("healthz") == [], "to start it again would not bring the database back"
        start_postgres()
        health.wait_until("readyz", lambda reasons: not reasons)
        process.child.terminate()
        assert process.child.wait(20) == 0


def test_a_worker_is_ready_when_its_releases_are_loaded(stack: Stack, tmp_path: Path) -> None:
    health = HealthClient(free_port())
    later = make_tiny_release(tmp_path / "later", seed=51, name="later")
    soon = "from services.worker import preload\npreload.RETRY_INTERVAL_S = 0.5\n"
    variables = {"DARKROOM_METRICS_PORT": str(health.port), "DARKROOM_PRELOAD": '["tiny", "later@1"]'}
    with stack.process("worker", first=soon, **variables):
        (reason,) = health.wait_until("startupz", lambda reasons: len(reasons) == 1 and "no release" in reasons[0])
        assert reason.startswith("later@1 is not loaded: model: no release is called 'later'")
        assert health.reasons("healthz") == []
        assert health.reasons("readyz") == [reason]
        with stack.engine("publisher").begin() as connection:
            releases.publish(connection, stack.store(), later)
        health.wait_until("readyz", lambda reasons: not reasons)
        assert health.reasons("startupz") == []


def test_a_draining_worker_is_alive_and_not_ready(stack: Stack) -> None:
    health = HealthClient(free_port())
    slow = "import time; from services.worker.engine import Engine; step = Engine.step\n" \
           "def slow(self):\n    time.sleep(0.2); return step(self)\nEngine.step = slow\n"  # fmt: skip
    with (
        stack.process("dispatcher"),
        stack.process("worker", first=slow, DARKROOM_METRICS_PORT=str(health.port)) as worker,
    ):
        health.wait_until("readyz", lambda reasons: not reasons)
        job_id = stack.submit({"items": [{"class_label": 1}], "steps": 20})
        deadline = time.monotonic() + 30
        while scrape_metrics(health.port)["darkroom_images_under_way"] == 0:  # a shard that is not begun goes back
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.child.send_signal(signal.SIGTERM)
        health.wait_until("readyz", lambda reasons: reasons == ["the process is draining and takes no new work"])
        assert health.reasons("healthz") == []
        assert stack.wait(job_id).state == "succeeded"


def test_an_unknown_path_lists_the_known_ones(stack: Stack) -> None:
    health = HealthClient(free_port())
    with stack.process("dispatcher", DARKROOM_METRICS_PORT=str(health.port)):
        health.wait_until("readyz", lambda reasons: not reasons)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"http://127.0.0.1:{health.port}/", timeout=5)
        assert error.value.code == 404
        assert error.value.read() == b"paths: /metrics, /healthz, /readyz, /startupz\n"
