"""Limits of a connection: how large a request's body may be, and how long a client may take to send and to read.

A client that sends a byte a minute, or never reads, would otherwise hold memory and a place for ever.
"""

import asyncio
import logging
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.console.forms import MAX_BODY

log = logging.getLogger("darkroom.console")

BODY_S = 60.0  # for a whole body
SEND_S = 30.0  # that one write may wait for the client to read


class _NotRead(Exception):
    """The client does not read its answer."""


class Limits:
    """Refuses bodies that are too large (413) or too slow (408), and drops clients that do not read."""

    def __init__(
        self, app: ASGIApp, *, max_body: int = MAX_BODY, body_s: float = BODY_S, send_s: float = SEND_S
    ) -> None:
        self.app, self.max_body, self.body_s, self.send_s = app, max_body, body_s, send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = time.monotonic() + self.body_s
        size, is_complete = 0, False

        async def receive_some() -> Message:
            nonlocal size, is_complete
            if is_complete:  # The application waits for the end of the connection.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, f"body: not complete after {self.body_s:g} s; send it faster.") from None
            size += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if size > self.max_body:
                raise HTTPException(413, f"body: too large; permitted: at most {self.max_body} bytes.")
            return message

        async def send_some(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self.send_s)
            except TimeoutError:
                raise _NotRead from None

        try:
            await self.app(scope, receive_some, send_some)
        except _NotRead:
            log.info("a client did not read its answer for %g s and is dropped", self.send_s)
