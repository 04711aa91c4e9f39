"""Rating images, and the picks of a job as a set of images for training."""

import uuid
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi import Path as PathParameter
from fastapi.responses import Response

from services.console.forms import Form
from services.console.page import Page
from services.console.picks import send_set
from services.job_queue import clients, ratings

router = APIRouter()

Index = Annotated[int, PathParameter(ge=0, le=2**31 - 1)]


@router.post("/jobs/{job_id}/images/{index}/rating")
def rate_image(page: Page, form: Form, job_id: uuid.UUID, index: Index) -> Response:
    """Rate an image, or with 0 remove its rating, and lead to the next one if the form names it."""
    given, following = str(form.get("rating", "")), str(form.get("next", ""))
    if given not in ("0", "1", "2", "3", "4", "5"):
        raise HTTPException(422, f"rating: {given[:30]!r} is not allowed; permitted: 1 to 5, or 0 for none")
    with page.database() as connection:
        if not ratings.rate(connection, job_id, index, int(given), page.viewer.name):
            page.missing(f"Image {index} of job {job_id}")
    return page.go_to(f"/jobs/{job_id}/images/{following if following.isdecimal() else index}")


@router.get("/jobs/{job_id}/picks.zip")
def send_picks(page: Page, job_id: uuid.UUID, rating: Annotated[int, Query(ge=1, le=ratings.BEST)] = 1) -> Response:
    """Send the images that are rated so or better as a ZIP, as they are read from S3."""
    with page.database() as connection:
        clients.find_summary(connection, job_id) or page.missing(f"Job {job_id}")
    return send_set(page.parts.store, page.database, job_id, rating)
