"""The console's ASGI application."""

import secrets
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from services.console.api.app import make_api
from services.console.limits import Limits
from services.console.pages import PAGES
from services.console.parts import Parts
from services.console.problems import describe_problem
from services.console.proxy import Proxy
from services.console.rendering import make_templates, static_files
from services.console.security import SecurityHeaders
from services.console.sign_in import SignInLinks
from services.settings import ConsoleSettings
from services.storage.object_store import ObjectStore

SESSION_S = 12 * 3600
LOOPBACK = ("127.0.0.1", "localhost")


def make_app(settings: ConsoleSettings, database: Engine, store: ObjectStore, links: SignInLinks) -> FastAPI:
    """Return the application. links: which sign-in links it accepts."""
    secret = settings.console_secret
    parts = Parts(database, store, make_templates(), links, make_proxy(settings), settings.console_runs)
    app = FastAPI(
        title="Darkroom",
        lifespan=parts.health.watch,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(Limits),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *settings.console_hosts], www_redirect=False),
            Middleware(
                SessionMiddleware,
                secret_key=secret.get_secret_value() if secret else secrets.token_urlsafe(32),
                session_cookie=f"darkroom-{settings.console_port}",  # cookies of a host are shared by its ports
                max_age=SESSION_S,
                same_site="lax",
                https_only=bool(settings.console_hosts),
            ),
        ],
    )
    app.state.parts = parts
    app.mount("/api/v1", make_api(parts, version("darkroom")))
    app.mount("/static", static_files(), name="static")
    for router in PAGES:
        app.include_router(router)
    for kind in (Exception, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer_problem)
    return app


def answer_problem(request: Request, error: Exception) -> Response:
    """Return a page about an error, or JSON to who asks for JSON."""
    problem = describe_problem(request, error)
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(problem.as_json(), problem.status, dict(problem.headers), "application/problem+json")
    templates = request.app.state.parts.templates
    return templates.TemplateResponse(  # type: ignore[no-any-return]
        request, "problem.html", {"problem": problem, "viewer": None}, problem.status, dict(problem.headers)
    )


def make_proxy(settings: ConsoleSettings) -> Proxy | None:
    """Return the trusted proxy of the settings, or None if there is none."""
    if settings.console_proxy_user_header is None:
        return None
    return Proxy(
        settings.console_proxy_user_header,
        settings.console_proxy_groups_header,
        settings.console_proxy_networks,
        settings.console_tenants,
        settings.console_operators,
    )
