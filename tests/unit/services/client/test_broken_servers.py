"""The client over HTTP against servers whose answers end early, are something else, or have no end."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from services.client import ClientError, Darkroom, transport
from services.client.http_backend import HttpBackend
from services.job_queue.job_filters import EVERY_JOB

JOB = uuid.uuid4()
IMAGE = {"index": 0, "item": 0, "seed": 1, "key": "k", "sha256": "s", "bytes": 1, "profile": "p", "error": None}
IMAGE |= {"revision": 1, "created_at": "2030-01-01T00:00:00Z", "evaluations": 1, "gpu_seconds": 1.0}


@contextmanager
def server(*answers: tuple[bytes, int]) -> Iterator[tuple[str, list[str]]]:
    """A server that sends each (body, how many of its bytes) once, then the last one. Yields its url and requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, sent = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:sent])

        def log_message(self, format: str, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def document(value: Any) -> tuple[bytes, int]:
    body = json.dumps(value).encode()
    return body, len(body)


def test_an_answer_that_ends_early_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transport, "FIRST_PAUSE_S", 0.01)
    body = b'{"a": 1}' + b" " * 100_000
    for cut in (0, 4, 70_000):
        with server((body, cut), (body, len(body))) as (url, asked):
            assert transport.Transport(url, "token", 60).call("GET", "/x", read=dict) == {"a": 1}
            assert len(asked) == 2
        with server((body, cut), (body, len(body))) as (url, asked):
            transport.Transport(url, "token", 60).download("/x", tmp_path / "file")
            assert (tmp_path / "file").read_bytes() == body
            assert len(asked) == 2


def test_a_download_that_fails_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    with server((b"x" * 100_000, 70_000)) as (url, _), pytest.raises(ClientError, match="does not answer"):
        transport.Transport(url, "token", 0).download("/x", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [b"<html>Sign in</html>", b"", b"[]", b'{"detail": 1}', b"null", b"\xff"],
    ids=["page", "nothing", "list", "another object", "null", "bytes"],
)
def test_a_server_that_is_no_console_is_named(body: bytes) -> None:
    with server((body, len(body))) as (url, _), Darkroom(url=url, token="token", patience_s=0) as client:
        for ask in (client.jobs, client.job(JOB).status):
            with pytest.raises(ClientError, match=r"url: .* is not that of a console"):
                ask()


def test_pages_without_an_end_are_not_read_for_ever() -> None:
    with server(document({"jobs": [], "next": "again", "outputs": []})) as (url, asked):
        backend = HttpBackend(url, "token", 0)
        assert backend.list_jobs(10, EVERY_JOB) == []
        assert backend.read_ranges(JOB, [(0, 2**31 - 1)], 1_000) == []
        assert len(asked) == 2
    with server(document({"outputs": [IMAGE], "next": 0})) as (url, asked):
        images = HttpBackend(url, "token", 0).read_ranges(JOB, [(0, 2**31 - 1)], 1_000)
        assert [image.index for image in images] == [0]
        assert len(asked) == 2


def test_a_client_that_is_closed_asks_nothing() -> None:
    with server(document({})) as (url, asked):
        with Darkroom(url=url, token="token") as client:
            pass
        with pytest.raises(ClientError, match="the client is closed"):
            client.jobs()
        assert asked == []
