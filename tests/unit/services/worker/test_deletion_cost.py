"""A worker tells Kubernetes how many leases it holds, and goes on if it may not."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.worker.deletion_cost import ANNOTATION, DeletionCost


class Api:
    """An API server that records patches."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, str, str, Any]] = []
        self.status = 200
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                kind, token = self.headers["Content-Type"], self.headers["Authorization"]
                api.patches.append((self.path, kind, token, body))
                self.send_response(api.status)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.patches) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(self.patches) >= count


@pytest.fixture
def api() -> Iterator[Api]:
    found = Api()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def start(api: Api, tmp_path: Path) -> Iterator[Callable[[Callable[[], int]], None]]:
    (tmp_path / "namespace").write_text("images")
    (tmp_path / "token").write_text("secret")
    started: list[DeletionCost] = []

    def make(held: Callable[[], int]) -> None:
        started.append(DeletionCost("worker-1", held, api=api.url, account=tmp_path, interval_s=0.01))
        started[-1].start()

    yield make
    for one in started:
        one.stop()


def test_the_annotation_follows_the_leases_and_is_written_only_when_they_change(
    api: Api, start: Callable[[Callable[[], int]], None]
) -> None:
    held = [3]
    start(lambda: held[0])
    api.wait(1)
    time.sleep(0.1)
    held[0] = 0
    api.wait(2)
    path, kind, token, _ = api.patches[0]
    assert path == "/api/v1/namespaces/images/pods/worker-1"
    assert (kind, token) == ("application/merge-patch+json", "Bearer secret")
    assert [body["metadata"]["annotations"][ANNOTATION] for *_, body in api.patches] == ["3", "0"]


def test_a_worker_that_may_not_patch_its_pod_says_so_once_and_tries_again(
    api: Api, start: Callable[[Callable[[], int]], None], caplog: pytest.LogCaptureFixture
) -> None:
    api.status = 403
    with caplog.at_level(logging.WARNING):
        start(lambda: 1)
        api.wait(4)
    (line,) = (one.getMessage() for one in caplog.records if one.name == "darkroom.deletion_cost")
    assert "the deletion cost of pod worker-1 cannot be set: HTTP Error 403" in line
