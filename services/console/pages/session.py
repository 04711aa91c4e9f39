"""Signing in with a link, and out."""

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from services.console.forms import Form
from services.console.parts import Parts

router = APIRouter()


@router.get("/")
def home() -> Response:
    """Lead to the jobs."""
    return RedirectResponse("/jobs")


@router.get("/sign-in")
def sign_in(request: Request, token: str) -> Response:
    """Begin a session with a one-time token."""
    parts: Parts = request.app.state.parts
    viewer = None if parts.proxy else parts.links.redeem(token)
    if viewer is None:
        raise HTTPException(403, "This link was used already or has expired. Use the newest one of `darkroom console`.")
    viewer.remember(request)
    return RedirectResponse("/jobs", status_code=303)


@router.post("/sign-out")
def sign_out(request: Request, form: Form) -> Response:
    """End the session of this browser."""
    request.session.clear()
    return RedirectResponse("/jobs", status_code=303)
