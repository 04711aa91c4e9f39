"""Access to the API: the token of a request, its scopes and its rate limit."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from fastapi import Depends, HTTPException, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from services.console.parts import Parts
from services.console.viewer import Viewer
from services.errors import quote_name
from services.job_queue.tokens import TokenUser, use_token

bearer = HTTPBearer(auto_error=False, description="A token that `darkroom tenants tokens add` has printed")


@dataclass(frozen=True)
class ApiCall:
    """A request with a valid token."""

    parts: Parts
    token: TokenUser

    @contextmanager
    def database(self) -> Iterator[Connection]:
        """Begin a transaction that sees what the token's tenant may see."""
        with self.parts.begin(Viewer(self.token.name, self.token.tenant)) as connection:
            yield connection

    def missing(self, what: str) -> NoReturn:
        """Raise HTTPException: it does not exist, or belongs to another tenant."""
        raise HTTPException(404, f"{what} does not exist, or belongs to another tenant.")


class TokenRoute(APIRoute):
    """A route that checks the token before the body is read; dependencies run after FastAPI has parsed the body."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return the handler of the route."""
        handle = super().get_route_handler()

        async def check_first(request: Request) -> Response:
            request.state.token = await run_in_threadpool(_use_token, request)
            return await handle(request)

        return check_first


def permits(scope: str) -> Callable[..., ApiCall]:
    """Return a dependency: a request of a `TokenRoute` whose token has a scope."""

    def check(request: Request, _: Annotated[object, Depends(bearer)]) -> ApiCall:
        token: TokenUser = request.state.token
        if scope not in token.scopes:
            raise HTTPException(403, f"This token has the scopes {', '.join(token.scopes)}; this needs {scope!r}.")
        _refuse_unknown_parameters(request)
        return ApiCall(request.app.state.parts, token)

    return check


def _use_token(request: Request) -> TokenUser:
    """Return whose token a request carries. Raises HTTPException without a valid one, and for too many requests."""
    parts: Parts = request.app.state.parts
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret:
        raise HTTPException(401, "Authorization: field required; permitted: Bearer and a token of a tenant.")
    with parts.database.begin() as connection:
        token = use_token(connection, secret)
    if token is None:
        raise HTTPException(401, "Authorization: this token is unknown, has expired or was revoked.")
    parts.rates.count(token.id)
    return token


def _refuse_unknown_parameters(request: Request) -> None:
    """Raise HTTPException for a parameter that the address does not have: a filter that is misspelt would be none."""
    known = {one.alias for one in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            permitted = ", ".join(sorted(known)) or "none"
            raise HTTPException(422, f"{quote_name(name)}: not a parameter of this address; permitted: {permitted}.")


Reading: Any = Annotated[ApiCall, Depends(permits("read"))]
Submitting: Any = Annotated[ApiCall, Depends(permits("submit"))]
