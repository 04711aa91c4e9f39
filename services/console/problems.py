"""Error pages: one sentence, what to do, and never a stack trace."""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, DBAPIError
from starlette.exceptions import HTTPException

from services.console.thumbnails import NotShown
from services.console.viewer import NotSignedIn, ProviderAway, SignInRefused
from services.database.faults import is_outage
from services.database.messages import describe_refusal
from services.errors import quote, quote_name
from services.storage.messages import describe_store_error
from training.errors import DarkroomError

log = logging.getLogger("darkroom.console")

# What is answered like any page. Other errors are bugs, and the server logs them, too.
EXPECTED: tuple[type[Exception], ...] = (
    HTTPException, RequestValidationError, NotSignedIn, SignInRefused, ProviderAway, NotShown, DBAPIError, ClientError,
    BotoCoreError, DarkroomError, UnicodeEncodeError,
)  # fmt: skip

NO_TEXT = "text: NUL and lone surrogates are not allowed"
RETRY = {"Retry-After": "5"}
# SQLSTATE of errors that functions and triggers raise for clients, with messages for a person
STATUSES = {
    "02000": 404,  # no_data
    "P0002": 404,  # no_data_found
    "42501": 403,  # insufficient_privilege
    "23505": 409,  # unique_violation
    "55000": 409,  # object_not_in_prerequisite_state
    "53000": 429,  # insufficient_resources: a quota
    "57014": 503,  # a statement took too long
}
CLIENT_ERRORS = ("22", "23", "P0")  # data exceptions, constraints and raised exceptions: 422


@dataclass(frozen=True)
class Problem:
    """An error as RFC 9457 describes it. headers: of the answer. may_begin: whether signing in again may help."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    may_begin: bool = False

    @property
    def title(self) -> str:
        """The name of the status."""
        return HTTPStatus(self.status).phrase

    def as_json(self) -> dict[str, Any]:
        """Return the body of an answer of type application/problem+json."""
        return {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}

    @property
    def retry_after(self) -> str | None:
        """The seconds after which the same request may succeed."""
        return self.headers.get("Retry-After")


def describe_problem(request: Request, error: Exception) -> Problem:
    """Return the message for an error. An unexpected one is logged under an id that the response contains."""
    match error:
        case NotSignedIn():
            return Problem(401, f"You are not signed in. {error}")
        case SignInRefused():
            return Problem(403, str(error), may_begin=True)
        case ProviderAway():
            return Problem(503, str(error), RETRY)
        case RequestValidationError():
            return Problem(422, "; ".join(map(_complaint, error.errors())))
        case HTTPException():
            return Problem(error.status_code, error.detail, error.headers or {})
        case NotShown():
            return Problem(404, f"The image cannot be shown: {error}.")
        case UnicodeEncodeError():
            return Problem(422, NO_TEXT)
        case DBAPIError():
            return _database_problem(request, error)
        case ClientError() | BotoCoreError():
            return Problem(503, describe_store_error(error) or "S3 does not answer.", RETRY)
        case DarkroomError():
            return Problem(422, str(error))
    return _unexpected(request, error)


def _database_problem(request: Request, error: DBAPIError) -> Problem:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if not state and isinstance(error, DataError):  # the driver refuses a value before it sends it
        return Problem(422, NO_TEXT)
    if state not in STATUSES and (is_outage(error) or not state):
        return Problem(503, "Postgres does not answer. The page comes back by itself.", RETRY)
    status = STATUSES.get(state) or (422 if state.startswith(CLIENT_ERRORS) else None)
    if status is None:
        return _unexpected(request, error)
    return Problem(status, f"{describe_refusal(error)}.", RETRY if status == 503 else {})


def _unexpected(request: Request, error: Exception) -> Problem:
    number = uuid.uuid4().hex[:12]
    log.error("error %s at %s %s", number, request.method, quote(request.url.path), exc_info=error)
    return Problem(500, f"This is a bug. The log of the console says more under {number}.")


def _complaint(problem: dict[str, Any]) -> str:
    """Return one sentence about a field of a request: its name, what is wrong, and its value."""
    where = problem["loc"][1:] or problem["loc"]  # after where it is: query, path or body
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{quote_name(part)}" for part in where).lstrip(".")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message[0].lower()}{message[1:]}; given: {quote(problem.get('input'))}"
