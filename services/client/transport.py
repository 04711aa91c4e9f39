"""HTTP requests to the API: a token, JSON, and retries while the service is unavailable or limits the rate."""

import json
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any, TypeVar

from services.client.errors import FIRST_PAUSE_S, LONGEST_PAUSE_S, ClientError, JobNotFound, check_open
from services.errors import quote

Answer = TypeVar("Answer")

TIMEOUT_S = 60.0
AGAIN = (429, 502, 503, 504)
LONGEST_ANSWER = 2**26  # bytes


class Transport:
    """The API of a console. url: of the console, such as https://pictures.example.com."""

    def __init__(self, url: str, token: str, patience_s: float) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username or parts.password:
            raise ClientError(
                f"url: {quote(parts.hostname or url)} is not allowed; permitted: http(s)://HOST of a console"
            )
        if not token.isascii() or not token.isprintable() or " " in token or not token:
            raise ClientError("token: is not one that `darkroom tenants tokens add` has printed")
        self._root = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/api/v1"
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._patience_s = patience_s
        self._closed = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirects)  # the token is sent to no other host

    def close(self) -> None:
        """Let this call and every later one raise ClientError."""
        self._closed.set()

    def call(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        patience_s: float | None = None,
        read: Callable[[Any], Answer],
    ) -> Answer:
        """Return what `read` makes of the JSON of an answer, which must be safe to ask for again.

        Raises ClientError, also if `read` cannot read the answer, and JobNotFound.
        """
        document = None if body is None else json.dumps(body).encode()
        given = {name: value for name, value in (query or {}).items() if value not in ("", None, [])}
        address = f"{path}?{urllib.parse.urlencode(given, doseq=True)}" if given else path
        answer = self._persist(verb, address, document, self._patience_s if patience_s is None else patience_s)
        try:
            return read(json.loads(answer) if answer else None)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ClientError(
                f"url: {self._root} is not that of a console, or of another version: {verb} {path} has another answer"
            ) from None

    def read(self, path: str) -> bytes:
        """Return the bytes of an answer. Raises ClientError and JobNotFound."""
        return self._persist("GET", path, None, self._patience_s)

    def download(self, path: str, file: Path) -> None:
        """Write the bytes of an answer of any size to a file. Raises ClientError and JobNotFound."""

        part = file.with_name(f"{file.name}.part")

        def take(answer: HTTPResponse) -> bytes:
            with part.open("wb") as target:
                shutil.copyfileobj(answer, target)
            return b""

        try:
            self._persist("GET", path, None, self._patience_s, take)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    def _persist(
        self,
        verb: str,
        path: str,
        body: bytes | None,
        patience_s: float,
        take: Callable[[HTTPResponse], bytes] | None = None,
    ) -> bytes:
        deadline, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
        while True:
            check_open(self._closed)
            try:
                return self._send(verb, path, body, take or _read_small)
            except urllib.error.HTTPError as error:
                problem = _problem(error)
                if error.code not in AGAIN or time.monotonic() + pause > deadline:
                    raise problem from None
                wait = error.headers.get("Retry-After", "")
                pause = max(pause, min(float(wait), LONGEST_PAUSE_S)) if wait.isdecimal() else pause
            except (OSError, HTTPException) as error:
                if time.monotonic() + pause > deadline:
                    reason = getattr(error, "reason", error)
                    raise ClientError(f"{self._root} does not answer ({reason})") from None
            self._closed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _send(self, verb: str, path: str, body: bytes | None, take: Callable[[HTTPResponse], bytes]) -> bytes:
        headers = {**self._headers, **({"Content-Type": "application/json"} if body is not None else {})}
        request = urllib.request.Request(f"{self._root}{path}", body, headers, method=verb)
        with self._opener.open(request, timeout=TIMEOUT_S) as answer:
            taken = take(answer)
            if answer.length:  # the connection was lost: read(amount) does not say so
                raise IncompleteRead(b"", answer.length)
            return taken


def _read_small(answer: HTTPResponse) -> bytes:
    content = answer.read(LONGEST_ANSWER + 1)
    if len(content) > LONGEST_ANSWER:
        raise ClientError(f"{answer.url}: the answer has more than {LONGEST_ANSWER} bytes")
    return content


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _problem(error: urllib.error.HTTPError) -> ClientError:
    """Return the error that an answer describes."""
    try:
        detail = str(json.loads(error.read(2**16))["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        detail = f"{error.url}: {error.code} {error.reason}"
    return JobNotFound(detail) if error.code == 404 else ClientError(detail)
