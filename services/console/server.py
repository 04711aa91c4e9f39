"""The HTTP server of the console, with limits of connections and of their idle time."""

import asyncio
import gc
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 512
KEEP_ALIVE_S, HEADERS_S, SEND_S, DRAIN_S = 30, 20.0, 30.0, 5


class Impatient(H11Protocol):
    """Ends connections on which no request begins, or whose client does not read. uvicorn waits for ever."""

    headers_s, send_s = HEADERS_S, SEND_S
    _sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._last: object = None
        self._watch = self.loop.call_later(self.headers_s, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._watch.cancel()
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read. A connection that is only closed would keep what was not read."""
        super().pause_writing()
        self._stop_waiting()
        self._sending = self.loop.call_later(self.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._stop_waiting()
        super().resume_writing()

    def _stop_waiting(self) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def _check(self) -> None:
        if self.cycle is self._last and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
        else:
            self._last = self.cycle
            self._watch = self.loop.call_later(self.headers_s, self._check)


class Server(uvicorn.Server):
    """Serves an application on a socket that listens."""

    def __init__(
        self, app: ASGIApp, listener: socket.socket, *, headers_s: float = HEADERS_S, send_s: float = SEND_S
    ) -> None:
        self._listener = listener
        protocol = type("Protocol", (Impatient,), {"headers_s": headers_s, "send_s": send_s})
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # they are read where a proxy is trusted by name
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )

    def serve_until_stopped(self) -> None:
        """Serve until a signal, or until `should_exit`."""
        # What the process has loaded stays until its end. A full collection would visit it and stop requests for 70 ms.
        gc.collect()
        gc.freeze()
        self.run(sockets=[self._listener])
