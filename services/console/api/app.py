"""The API's own application: errors as problem+json, and its OpenAPI document."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from services.console.api import checks, jobs, outputs, pairs, recall, releases
from services.console.parts import Parts
from services.console.problems import EXPECTED, describe_problem

ROUTERS = (jobs.router, outputs.router, pairs.router, recall.router, checks.router, releases.router)
DESCRIPTION = """
Submit jobs of latent diffusion models, follow them and read their images. A request carries a token of a tenant:
`Authorization: Bearer darkroom_...`. Errors are `application/problem+json`; their `detail` has the words of the
database: the field, the value and what is permitted.
"""
PROBLEM: dict[str, Any] = {
    "description": "The request was refused; `detail` says why",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}


def make_api(parts: Parts, version: str) -> FastAPI:
    """Return the application to mount at /api/v1."""
    api = FastAPI(
        title="Darkroom",
        version=version,
        description=DESCRIPTION,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy, the address would begin with http
        responses={status: PROBLEM for status in (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)},
    )
    api.state.parts = parts
    for router in ROUTERS:
        api.include_router(router)
    for kind in (*EXPECTED, Exception):
        api.add_exception_handler(kind, answer_problem)
    return api


def answer_problem(request: Request, error: Exception) -> Response:
    """Return an error as RFC 9457 has it."""
    problem = describe_problem(request, error)
    headers = {**problem.headers, **({"WWW-Authenticate": "Bearer"} if problem.status == 401 else {})}
    return JSONResponse(problem.as_json(), problem.status, headers, "application/problem+json")
