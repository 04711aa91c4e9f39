"""The context of a request for a page: its viewer, the database with the viewer's rights, and the templates."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from fastapi import Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BeforeValidator
from sqlalchemy import Connection

from services.console.forms import csrf_token
from services.console.parts import Parts
from services.console.viewer import Viewer

# Of a parameter: a field of a form that was left empty is not given.
EMPTY_IS_NONE = BeforeValidator(lambda value: None if value == "" else value)


@dataclass(frozen=True)
class PageRequest:
    """A request of a viewer who has signed in."""

    request: Request
    parts: Parts
    viewer: Viewer

    @contextmanager
    def database(self) -> Iterator[Connection]:
        """Begin a transaction that sees what the viewer may see."""
        with self.parts.begin(self.viewer) as connection:
            yield connection

    def render(self, template: str, **values: Any) -> Response:
        """Return a page made of a template, which also knows `viewer` and `csrf`."""
        context = {"viewer": self.viewer, "csrf": csrf_token(self.request), **values}
        return self.parts.templates.TemplateResponse(self.request, template, context)

    def go_to(self, path: str) -> Response:
        """Return an answer to a form that leads to another page."""
        return RedirectResponse(path, status_code=303)

    def missing(self, what: str) -> NoReturn:
        """Raise HTTPException: it does not exist, or the viewer may not see it, which looks the same."""
        raise HTTPException(404, f"{what} does not exist, or belongs to another tenant.")


def page_request(request: Request) -> PageRequest:
    """Return the request of a viewer. Raises NotSignedIn."""
    parts: Parts = request.app.state.parts
    viewer = parts.proxy.viewer_of(request) if parts.proxy else Viewer.of(request)
    return PageRequest(request, parts, viewer)


Page = Annotated[PageRequest, Depends(page_request)]
