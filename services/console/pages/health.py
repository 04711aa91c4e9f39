"""Probes: /healthz, whether the process answers, and /readyz, whether Postgres does."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import SQLAlchemyError

from services.database.connections import brief, server_version

router = APIRouter()


@router.get("/healthz")
async def live() -> Response:
    """Answer, which shows that the event loop runs."""
    return JSONResponse({"ok": True, "reasons": []})


@router.get("/readyz")
def ready(request: Request) -> Response:
    """Answer 503 with the reason while Postgres does not answer. S3 is no reason: most pages work without it."""
    try:
        with request.app.state.parts.database.connect() as connection:
            server_version(connection)
    except SQLAlchemyError as error:
        return JSONResponse({"ok": False, "reasons": [f"Postgres does not answer ({brief(error)})"]}, 503)
    return JSONResponse({"ok": True, "reasons": []})
