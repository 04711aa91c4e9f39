"""Clients that hold connections: a hundred that never send, never end a request, or never read, delay nobody."""

import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from services.console.limits import Limits
from services.console.pages import PAGES
from tests.support.browser import served
from tests.support.console import make_job, open_console
from tests.support.stack import Stack

HUNDRED = 100


@contextmanager
def connections(address: str, sent: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Open connections that have sent something and read nothing."""
    parts = urlsplit(address)
    with ExitStack() as opened:
        sockets = []
        for _ in range(count):
            one = opened.enter_context(socket.create_connection((str(parts.hostname), int(parts.port or 0)), 30))
            one.sendall(sent)
            sockets.append(one)
        yield sockets


def is_closed(one: socket.socket) -> bool:
    one.settimeout(60)
    try:
        while one.recv(65536):
            pass
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("kind", ["silent", "half a header", "half a body", "unread pages", "unread news"])
def test_a_hundred_idle_connections_delay_nobody(stack: Stack, kind: str) -> None:
    job, console = make_job(stack, 120), open_console(stack)
    (cookie,) = console.cookies.jar
    head = f"Host: 127.0.0.1\r\nCookie: {cookie.name}={cookie.value}\r\n"
    sent = {
        "silent": "",
        "half a header": f"GET /jobs HTTP/1.1\r\n{head}X-More: ",
        "half a body": f"POST /sign-out HTTP/1.1\r\n{head}Content-Length: 1000\r\n\r\ncsrf=",
        "unread pages": f"GET /jobs/{job} HTTP/1.1\r\n{head}\r\n" * 3,
        "unread news": f"GET /events?job={job} HTTP/1.1\r\n{head}\r\n",
    }[kind]
    with served(console.app) as address, connections(address, sent.encode(), HUNDRED):
        cookies = {cookie.name: str(cookie.value)}
        with httpx.Client(base_url=address, cookies=cookies, timeout=120) as client:
            for path in ("/healthz", "/jobs", f"/jobs/{job}/images/0/128.webp"):
                assert client.get(path).status_code == 200


def test_connections_without_a_request_are_closed(stack: Stack) -> None:
    app: Any = open_console(stack).app
    with served(app, headers_s=0.5) as address:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-More: "):
            with connections(address, sent, 2) as sockets:
                assert all(map(is_closed, sockets))


def test_no_body_is_read_before_the_client_is_known(stack: Stack) -> None:
    """Each request only announces its body, and is answered nevertheless."""
    app: Any = open_console(stack).app
    forms = [(route.path, method) for router in PAGES for route in router.routes if isinstance(route, APIRoute)
             for method in (route.methods or set()) - {"GET"}]  # fmt: skip
    paths = TestClient(app, base_url="http://127.0.0.1").get("/api/v1/openapi.json").json()["paths"]
    bodies = [(f"/api/v1{path}", method.upper()) for path, verbs in paths.items() for method, operation in verbs.items()
              if "requestBody" in operation]  # fmt: skip
    assert len(forms) > 5
    assert len(bodies) > 5
    head = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    with served(app) as address:
        for path, method in (*forms, *bodies):
            target = re.sub(r"{[^}]*}", str(uuid.uuid4()), path)
            for more in ("", "Authorization: Bearer darkroom_unknown\r\n"):
                with connections(address, f"{method} {target} HTTP/1.1\r\n{head}{more}\r\n".encode(), 1) as (one,):
                    one.settimeout(20)
                    status = one.recv(65536)[9:12]
                assert status == b"401" or (status == b"403" and path == "/sign-out"), (method, path, status)


def limited(**limits: float) -> Any:
    """An application behind the limits that reads its body and answers with 50 MB."""

    async def answer(request: Request) -> Response:
        await request.body()
        return PlainTextResponse("x" * 50_000_000)

    return Limits(Starlette(routes=[Route("/", answer, methods=["POST"])]), **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"12345", b"1234567890"])
def test_a_client_that_does_not_go_on_is_dropped(body: bytes) -> None:
    """Half of a body: 408. A whole body, and an answer that is not read: the connection ends."""
    request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n" + body
    with served(limited(body_s=1.0), send_s=1.0) as address, connections(address, request, 1) as (one,):
        time.sleep(2.5)  # the answer is not read for longer than permitted
        one.settimeout(60)
        received = b""
        with suppress(ConnectionError):
            while chunk := one.recv(2**20):
                received += chunk
    assert len(received) < 50_000_000
    assert (b" 408 " in received[:40]) is (len(body) < 10)
