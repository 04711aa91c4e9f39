"""HEAD: the headers that GET has, without the body."""

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

USED_ONCE = "/sign-in"  # addresses that end what they are given, such as a link; HEAD must change nothing


def is_head_answered(scope: Scope) -> bool:
    """Return whether HEAD at the address of a request is answered as GET."""
    return not scope["path"].startswith(USED_ONCE)


class Heads:
    """Answers HEAD as GET, and ends when the headers are sent: a stream of events has no other end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope.get("method") != "HEAD" or not is_head_answered(scope):
            await self.app(scope, receive, send)
            return
        with anyio.CancelScope() as answering:

            async def send_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b""})
                    answering.cancel()

            await self.app({**scope, "method": "GET"}, receive, send_headers)
