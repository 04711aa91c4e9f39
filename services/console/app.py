"""The console's ASGI application."""

import secrets
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy import Engine
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from services.console.api.app import make_api
from services.console.directory import Directory
from services.console.heads import Heads
from services.console.limits import Limits
from services.console.pages import PAGES
from services.console.pages.session import may_sign_in, sign_in_path
from services.console.parts import Oidc, Parts
from services.console.pending import PendingSignIns
from services.console.problems import EXPECTED, describe_problem
from services.console.proxy import Proxy
from services.console.rendering import make_templates, static_files
from services.console.security import HEADERS, SecurityHeaders
from services.console.sign_in import SignInLinks
from services.console.viewer import NotSignedIn
from services.console_settings import ConsoleSettings
from services.storage.object_store import ObjectStore

SESSION_S = 12 * 3600
LOOPBACK = ("127.0.0.1", "localhost")


def make_app(settings: ConsoleSettings, database: Engine, store: ObjectStore, links: SignInLinks) -> FastAPI:
    """Return the application. links: which sign-in links it accepts."""
    given = settings.console_secret
    secret = given.get_secret_value() if given else secrets.token_urlsafe(32)
    cookie = f"darkroom-{settings.console_port}"  # cookies of a host are shared by its ports
    oidc = make_oidc(settings, secret, cookie)
    parts = Parts(database, store, make_templates(), links, make_proxy(settings), oidc, settings.console_runs)
    app = FastAPI(
        title="Darkroom",
        lifespan=parts.health.watch,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(SecurityHeaders, https_only=bool(settings.console_hosts)),
            Middleware(Limits),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *settings.console_hosts], www_redirect=False),
            Middleware(
                SessionMiddleware,
                secret_key=secret,
                session_cookie=cookie,
                max_age=SESSION_S,
                same_site="lax",
                https_only=bool(settings.console_hosts),
            ),
            Middleware(Heads),
        ],
    )
    app.state.parts = parts
    app.mount("/api/v1", make_api(parts, version("darkroom")))
    app.mount("/static", static_files(), name="static")
    for router in PAGES:
        app.include_router(router)
    for kind in (*EXPECTED, Exception):
        app.add_exception_handler(kind, answer_problem)
    return app


def answer_problem(request: Request, error: Exception) -> Response:
    """Return a page about an error, or JSON to who asks for JSON."""
    if isinstance(error, NotSignedIn) and may_sign_in(request):
        return RedirectResponse(sign_in_path(request), status_code=303)
    problem = describe_problem(request, error)
    headers = {**HEADERS, **problem.headers}  # a bug is answered outside of what adds them
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(problem.as_json(), problem.status, headers, "application/problem+json")
    templates = request.app.state.parts.templates
    return templates.TemplateResponse(  # type: ignore[no-any-return]  # untyped in starlette
        request, "problem.html", {"problem": problem, "viewer": None}, problem.status, headers
    )


def make_proxy(settings: ConsoleSettings) -> Proxy | None:
    """Return the trusted proxy of the settings, or None if there is none."""
    if settings.console_proxy_user_header is None:
        return None
    return Proxy(
        settings.console_proxy_user_header,
        settings.console_proxy_groups_header,
        settings.console_proxy_networks,
        Directory(settings.console_tenants, settings.console_operators),
    )


def make_oidc(settings: ConsoleSettings, secret: str, cookie: str) -> Oidc | None:
    """Return how people sign in at the provider of the settings, or None if there is none."""
    if settings.console_oidc_issuer is None or settings.console_oidc_client_id is None:
        return None
    from services.console.oidc import Provider  # few need its libraries

    client_secret = settings.console_oidc_client_secret
    return Oidc(
        Provider(
            settings.console_oidc_issuer,
            settings.console_oidc_client_id,
            client_secret.get_secret_value() if client_secret else None,
            settings.console_oidc_scopes,
        ),
        PendingSignIns(secret, cookie, https_only=bool(settings.console_hosts)),
        Directory(settings.console_tenants, settings.console_operators),
        settings.console_oidc_user_claim,
        settings.console_oidc_groups_claim,
        settings.console_oidc_tenant_claim,
    )
