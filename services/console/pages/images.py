"""One image: a page about how it was made, its file and its small copies."""

import uuid

from fastapi import APIRouter
from fastapi.responses import Response

from services.console.files import CACHED, Index, send_image
from services.console.making import find_origin
from services.console.page import Page, PageRequest
from services.console.thumbnails import SIZES
from services.job_queue import clients, gallery, ratings, viewing
from services.job_queue.outputs import Output

router = APIRouter()


@router.get("/jobs/{job_id}/images/{index}")
def show_image(page: Page, job_id: uuid.UUID, index: Index) -> Response:
    """Show an image with what made it."""
    with page.database() as connection:
        image = viewing.find_image(connection, job_id, index) or page.missing(f"Image {index} of job {job_id}")
        job = clients.find_summary(connection, job_id) or page.missing(f"Job {job_id}")
        origin = find_origin(connection, image, job)
        previous = gallery.list_images(connection, job_id, 1, before=index)
        following = gallery.list_images(connection, job_id, 1, after=index)
        stars = ratings.find_ratings(connection, job_id, index, index).get(index)
    return page.render(
        "image.html", job=job, image=image, **vars(origin), stars=stars,
        previous=previous[0].index if previous else None, following=following[0].index if following else None,
    )  # fmt: skip


@router.get("/jobs/{job_id}/images/{index}/file")
def send_file(page: Page, job_id: uuid.UUID, index: Index) -> Response:
    """Send an image as it was stored."""
    return send_image(page.request, page.parts.store, job_id, _find(page, job_id, index))


@router.get("/jobs/{job_id}/images/{index}/{size}.webp")
def send_thumbnail(page: Page, job_id: uuid.UUID, index: Index, size: int) -> Response:
    """Send a small copy of an image."""
    if size not in SIZES:
        page.missing(f"A copy of {size} pixels (permitted: {', '.join(map(str, SIZES))})")
    copy = page.parts.thumbnails.get(page.parts.store, _find(page, job_id, index), size)
    return Response(copy, media_type="image/webp", headers=CACHED)


def _find(page: PageRequest, job_id: uuid.UUID, index: int) -> Output:
    with page.database() as connection:
        return viewing.find_image(connection, job_id, index) or page.missing(f"Image {index} of job {job_id}")
