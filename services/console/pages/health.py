"""Probes: /healthz, whether the process answers, and /readyz, whether Postgres does."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

router = APIRouter()


@router.get("/healthz")
async def live() -> Response:
    """Answer, which shows that the event loop runs."""
    return _answer([])


@router.get("/readyz")
def ready(request: Request) -> Response:
    """Answer 503 with the reasons while pages cannot be shown."""
    return _answer(request.app.state.parts.health.ready())


def _answer(reasons: list[str]) -> Response:
    return JSONResponse({"ok": not reasons, "reasons": reasons}, 503 if reasons else 200)
