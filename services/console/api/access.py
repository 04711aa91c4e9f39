"""Access to the API: the token of a request, its scopes and its rate limit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Connection

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


def permits(scope: str) -> Callable[..., ApiCall]:
    """Return a dependency: a request whose token has a scope."""

    def check(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> ApiCall:
        parts: Parts = request.app.state.parts
        if given is None:
            raise HTTPException(401, "Authorization: field required; permitted: Bearer and a token of a tenant.")
        with parts.database.begin() as connection:
            token = use_token(connection, given.credentials)
        if token is None:
            raise HTTPException(401, "Authorization: this token is unknown, has expired or was revoked.")
        if scope not in token.scopes:
            raise HTTPException(403, f"This token has the scopes {', '.join(token.scopes)}; this needs {scope!r}.")
        parts.rates.count(token.id)
        _refuse_unknown_parameters(request)
        return ApiCall(parts, token)

    return check


def _refuse_unknown_parameters(request: Request) -> None:
    """Raise HTTPException for a parameter that the address does not have: a filter that is misspelt would be none."""
    known = {one.alias for one in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            permitted = ", ".join(sorted(known)) or "none"
            raise HTTPException(422, f"{quote_name(name)}: not a parameter of this address; permitted: {permitted}.")


Reading: Any = Annotated[ApiCall, Depends(permits("read"))]
Submitting: Any = Annotated[ApiCall, Depends(permits("submit"))]
