"""Forms: each carries the token of its session, comes from the console's own pages, and has a bounded size."""

import hmac
import secrets
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import FormData

CSRF = "csrf"
OTHER_SESSION = "This form belongs to another session. Reload the page and send it again."
MAX_FIELDS, MAX_FILES = 1_000, 4
MAX_BODY = 2**24  # 4 MiB of a request as JSON, written as a form, and a file of items


def csrf_token(request: Request) -> str:
    """Return the token that the forms of a session carry."""
    if CSRF not in request.session:
        request.session[CSRF] = secrets.token_urlsafe(32)
    return str(request.session[CSRF])


async def read_form(request: Request) -> AsyncIterator[FormData]:
    """Yield the fields of a form. Raises HTTPException: 403 for a form of another site, 413 for one that is too large.

    Every handler that changes something takes its fields from here. Without a session, nothing of the body is read.
    """
    check_origin(request)
    expected = request.session.get(CSRF, "")
    if not expected:
        raise HTTPException(403, OTHER_SESSION)
    if int(request.headers.get("content-length") or MAX_BODY + 1) > MAX_BODY:
        raise HTTPException(413, f"body: too large, or of unknown length; permitted: at most {MAX_BODY} bytes")
    form = await request.form(max_fields=MAX_FIELDS, max_files=MAX_FILES, max_part_size=MAX_BODY)
    try:
        given = form.get(CSRF)
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), expected.encode()):
            raise HTTPException(403, OTHER_SESSION)
        yield form
    finally:
        await form.close()  # its files


def check_origin(request: Request) -> None:
    """Raise HTTPException if a browser says that the request comes from another site."""
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise HTTPException(403, "This form was sent from another site.")


Form = Annotated[FormData, Depends(read_form)]
