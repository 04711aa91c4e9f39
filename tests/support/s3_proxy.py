"""A proxy in front of the real S3 server that behaves as other stores do."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from services.settings import StoreSettings
from services.storage.object_store import ObjectStore


@dataclass
class Request:
    """A request of a client. `path` includes the query."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def is_batch_delete(self) -> bool:
        """Whether it is a DeleteObjects request."""
        return self.method == "POST" and "delete" in urlsplit(self.path).query.split("&")


@dataclass
class S3Proxy:
    """What the proxy does, and what it saw.

    refuse: returns the status with which a request is refused, or None to forward it. accepted: called with each
    request that the server has answered. rename: changes the name of a header of an answer. trickles: whether the body
    of an answer comes byte by byte now, ten in a second. cuts: whether the connection ends in the middle of the body.
    """

    refuse: Callable[[Request], int | None] = lambda request: None
    accepted: Callable[[Request], None] = lambda request: None
    rename: Callable[[str], str] = str
    trickles: Callable[[Request], bool] = lambda request: False
    cuts: Callable[[Request], bool] = lambda request: False
    requests: list[Request] = field(default_factory=list)


@contextmanager
def s3_proxy(settings: StoreSettings, proxy: S3Proxy) -> Iterator[ObjectStore]:
    """Run the proxy in front of the S3 server of `settings`. Yields the same bucket, reached through it."""
    address = urlsplit(settings.s3_endpoint_url or "").netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            proxy.requests.append(request)
            if (status := proxy.refuse(request)) is not None:
                self._send(status, [], b"<Error><Code>Refused</Code><Message>refused</Message></Error>")
                return
            server = http.client.HTTPConnection(address, timeout=30)
            # The signature covers the Host header, which http.client would replace by the server's.
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            content, names = answer.read(), answer.getheaders()
            server.close()
            if answer.status < 300:
                proxy.accepted(request)
            with suppress(OSError):  # the client has closed the connection
                self._send(answer.status, names, content, request)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

        def _send(
            self, status: int, headers: list[tuple[str, str]], body: bytes, request: Request | None = None
        ) -> None:
            self.send_response_only(status)
            names = {name.lower() for name, _ in headers}
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(proxy.rename(name), value)
            if "content-length" not in names:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                while body and request is not None and proxy.trickles(request):
                    self.wfile.write(body[:1])
                    body = body[1:]
                    time.sleep(0.1)
                if request is not None and proxy.cuts(request):
                    body, self.close_connection = body[: len(body) // 2], True
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield ObjectStore.connect(settings.model_copy(update={"s3_endpoint_url": endpoint}))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
