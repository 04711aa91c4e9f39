"""Single-use sign-in links; the local console prints one at its start."""

import hashlib
import secrets
import threading
from collections.abc import Callable

from services.console.viewer import Viewer

MOST_LINKS = 16  # that are not used yet; an older one ends


class SignInLinks:
    """One-time tokens and whom each signs in. Tokens are kept hashed, in memory, and end with the process.

    on_use: called after a token was used, for instance to print the next link.
    """

    def __init__(self, on_use: Callable[[Viewer], None] = lambda _: None) -> None:
        self._viewers: dict[bytes, Viewer] = {}
        self._lock = threading.Lock()
        self.on_use = on_use

    def issue(self, viewer: Viewer) -> str:
        """Return a new token that signs in as `viewer`."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._viewers[_digest(token)] = viewer
            while len(self._viewers) > MOST_LINKS:
                del self._viewers[next(iter(self._viewers))]
        return token

    def redeem(self, token: str) -> Viewer | None:
        """Return whom a token signs in, and end it; None if it was used or never issued."""
        with self._lock:
            viewer = self._viewers.pop(_digest(token), None)
        if viewer is not None:
            self.on_use(viewer)
        return viewer


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
