"""Signing in with a link or at an identity provider, and out."""

import logging
from typing import Annotated
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response

from services.console.claims import viewer_of
from services.console.forms import Form
from services.console.parts import Oidc, Parts
from services.console.pending import HOME, Begun, local_path
from services.console.viewer import ProviderAway, SignInRefused
from services.console_settings import LOOPBACK
from services.errors import quote

log = logging.getLogger("darkroom.console")
router = APIRouter()

BEGIN, CALLBACK, SIGNED_OUT = "/sign-in/begin", "/sign-in/callback", "/signed-out"
Text = Annotated[str, Query(max_length=4000)]


@router.get("/")
def home() -> Response:
    """Lead to the jobs."""
    return RedirectResponse(HOME)


@router.get("/sign-in")
def sign_in(request: Request, token: str) -> Response:
    """Begin a session with a one-time token."""
    parts: Parts = request.app.state.parts
    viewer = None if parts.proxy or parts.oidc else parts.links.redeem(token)
    if viewer is None:
        raise HTTPException(403, "This link was used already or has expired. Use the newest one of `darkroom console`.")
    viewer.remember(request)
    return RedirectResponse(HOME, status_code=303)


@router.get(BEGIN)
async def begin(request: Request, to: Text = HOME) -> Response:
    """Lead to the identity provider. to: the path that is shown afterwards."""
    oidc = _oidc(request)
    begun = await oidc.provider.begin(redirect_uri(request))
    if not is_navigation(request):  # a script asks whether the provider is back
        return Response(status_code=204)
    answer = RedirectResponse(begun["url"], status_code=303)
    kept = Begun(begun["state"], begun["nonce"], begun["code_verifier"], local_path(to))
    oidc.pending.remember(request, answer, kept)
    return answer


@router.get(CALLBACK)
async def end(request: Request, state: Text = "", code: Text = "", error: Text = "") -> Response:
    """Begin a session of whom the identity provider has named."""
    oidc = _oidc(request)
    begun = oidc.pending.find(request, state)
    if begun is None:
        raise SignInRefused("This sign-in was not begun by this browser, has ended, or is older than ten minutes.")
    if error or not code:
        raise SignInRefused(f"{oidc.provider.name} did not sign you in: {quote(error or 'no code')}.")
    wanted = [name.partition(".")[0] for name in (oidc.groups, oidc.tenant) if name is not None]
    try:
        claims = await oidc.provider.finish(
            code=code, verifier=begun.verifier, nonce=begun.nonce, redirect_uri=redirect_uri(request), wanted=wanted
        )
    except ProviderAway as away:  # the code may be used: the sign-in begins again
        raise SignInRefused(str(away)) from None
    viewer = viewer_of(oidc, claims)
    viewer.remember(request)
    log.info("%s (%s) signed in, of tenant %s", quote(viewer.name), quote(claims["sub"]), viewer.tenant)
    answer = RedirectResponse(begun.to, status_code=303)
    oidc.pending.forget(answer, state)
    return answer


@router.post("/sign-out")
def sign_out(request: Request, form: Form) -> Response:
    """End the session of this browser."""
    request.session.clear()
    return RedirectResponse(SIGNED_OUT if request.app.state.parts.oidc else HOME, status_code=303)


@router.get(SIGNED_OUT)
async def signed_out(request: Request) -> Response:
    """Say that the session has ended, and how to end the provider's too."""
    parts: Parts = request.app.state.parts
    provider = _oidc(request).provider
    values = {"viewer": None, "again": BEGIN, "provider": provider.name, "end": await provider.end_session()}
    return parts.templates.TemplateResponse(request, "signed_out.html", values)


def is_navigation(request: Request) -> bool:
    """Return whether a browser loads a page, as opposed to a script that asks for something."""
    return request.headers.get("sec-fetch-mode", "navigate") == "navigate"


def may_sign_in(request: Request) -> bool:
    """Return whether a request without a session may be led to the identity provider."""
    is_page = request.method == "GET" and "text/html" in request.headers.get("accept", "") and is_navigation(request)
    return is_page and request.app.state.parts.oidc is not None


def sign_in_path(request: Request) -> str:
    """Return the path that signs in and leads back to the request's page."""
    url = request.url
    return f"{BEGIN}?{urlencode({'to': local_path(f'{url.path}?{url.query}' if url.query else url.path)})}"


def redirect_uri(request: Request) -> str:
    """Return the address to which the provider leads back: of the host by which the browser reaches the console.

    It is one of the hosts that the settings permit.
    """
    host = request.headers["host"]
    return f"{'http' if urlsplit(f'//{host}').hostname in LOOPBACK else 'https'}://{host}{CALLBACK}"


def _oidc(request: Request) -> Oidc:
    oidc: Oidc | None = request.app.state.parts.oidc
    if oidc is None:
        raise HTTPException(404, "The console has no identity provider: DARKROOM_CONSOLE_OIDC_ISSUER is not set.")
    return oidc
