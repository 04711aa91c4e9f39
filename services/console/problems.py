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
from starlette.routing import Match

from services.console.heads import is_head_answered
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
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
UNREADABLE = "There was an error parsing the body"  # of FastAPI
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
        case NotSignedIn() if getattr(request.app.state.parts, "oidc", None):
            return Problem(401, "You are not signed in, or your session has ended.", may_begin=True)
        case NotSignedIn():
            return Problem(401, f"You are not signed in. {error}")
        case SignInRefused():
            return Problem(403, str(error), may_begin=True)
        case ProviderAway():
            return Problem(503, str(error), RETRY)
        case RequestValidationError():
            return _refused_values(request, error)
        case HTTPException():
            return _refused_request(request, error)
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


def _refused_request(request: Request, error: HTTPException) -> Problem:
    """Return a problem in words where the framework has none: an address, a method or a body that it refuses."""
    coding = request.headers.get("content-encoding", "identity")
    if error.detail == HTTPStatus(error.status_code).phrase:
        if error.status_code == 404:
            return Problem(404, f"{quote(request.url.path)}: there is nothing at this address.")
        if error.status_code == 405:
            permitted = ", ".join(_methods(request))
            return Problem(405, f"{request.method}: not allowed here; permitted: {permitted}.", {"Allow": permitted})
    if error.status_code == 400 and coding != "identity":
        identity = {"Accept-Encoding": "identity"}
        return Problem(415, f"Content-Encoding: {quote(coding)} is not allowed; permitted: none.", identity)
    if error.status_code == 400 and error.detail == UNREADABLE:
        return Problem(400, "body: cannot be read; permitted: JSON in UTF-8, or a form.")
    return Problem(error.status_code, error.detail, error.headers or {})


def _methods(request: Request) -> list[str]:
    """Return the methods that the address of a request permits."""
    permitted = {
        method for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    } or {"GET"}  # fmt: skip  # a file, which has no route
    return sorted(permitted | ({"HEAD"} if "GET" in permitted and is_head_answered(request.scope) else set()))


def _refused_values(request: Request, error: RequestValidationError) -> Problem:
    problems = error.errors()
    if isinstance(problems[0].get("input"), bytes):  # the framework has not read the body
        given = quote(request.headers.get("content-type", ""))
        return Problem(415, f"Content-Type: {given} is not allowed; permitted: application/json.")
    if problems[0]["type"] == "json_invalid":
        place, what = problems[0]["loc"][-1], problems[0]["ctx"]["error"]
        return Problem(422, f"body: not JSON: {what[0].lower()}{what[1:]} at character {place}.")
    return Problem(422, "; ".join(map(_complaint, problems)))


def _database_problem(request: Request, error: DBAPIError) -> Problem:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if not state and isinstance(error, DataError):  # the driver refuses a value before it sends it
        return Problem(422, NO_TEXT)
    if state not in STATUSES and (is_outage(error) or not state):
        return Problem(503, "Postgres does not answer.", RETRY)
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
