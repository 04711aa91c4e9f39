"""Limits of the size and the duration of a request body. `server` limits the rest of a connection."""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.console.forms import MAX_BODY

BODY_S = 60.0
CLOSE = {"Connection": "close"}  # what is left of the body is not read


class Limits:
    """Refuses bodies that are too large (413) or too slow (408)."""

    def __init__(self, app: ASGIApp, *, max_body: int = MAX_BODY, body_s: float = BODY_S) -> None:
        self.app, self.max_body, self.body_s = app, max_body, body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        deadline = time.monotonic() + self.body_s
        size, is_complete = 0, scope["type"] != "http"

        async def receive_some() -> Message:
            nonlocal size, is_complete
            if is_complete:  # The application waits for the end of the connection.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HTTPException(
                    408, f"body: not complete after {self.body_s:g} s; send it faster.", CLOSE
                ) from None
            size += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if size > self.max_body:
                raise HTTPException(413, f"body: too large; permitted: at most {self.max_body} bytes.", CLOSE)
            return message

        await self.app(scope, receive_some, send)
