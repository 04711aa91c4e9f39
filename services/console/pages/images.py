"""One image: a page about how it was made, its file and its small copies."""

import uuid
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as PathParameter
from fastapi.responses import Response

from services.console.page import Page, PageRequest
from services.console.thumbnails import SIZES, NotShown, read_image
from services.job_queue import clients, viewing
from services.job_queue.outputs import Output

router = APIRouter()

Index = Annotated[int, PathParameter(ge=0, le=2**31 - 1)]
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}  # the address names the content


@router.get("/jobs/{job_id}/images/{index}")
def show_image(page: Page, job_id: uuid.UUID, index: Index) -> Response:
    """Show an image with what made it."""
    with page.database() as connection:
        image = viewing.find_image(connection, job_id, index) or page.missing(f"Image {index} of job {job_id}")
        job = clients.find_summary(connection, job_id) or page.missing(f"Job {job_id}")
        item = viewing.find_items(connection, job_id, image.item, image.item).get(image.item)
        settings = viewing.find_settings(connection, job_id)
        previous = viewing.list_images(connection, job_id, 1, before=index)
        following = viewing.list_images(connection, job_id, 1, after=index)
    return page.render(
        "image.html", job=job, image=image, item=item, settings=settings,
        previous=previous[0].index if previous else None, following=following[0].index if following else None,
    )  # fmt: skip


@router.get("/jobs/{job_id}/images/{index}/file")
def send_file(page: Page, job_id: uuid.UUID, index: Index) -> Response:
    """Send an image as it was stored."""
    image = _find(page, job_id, index)
    suffix = PurePosixPath(image.key or "").suffix
    if suffix not in TYPES:
        raise NotShown(image.error or f"{suffix} is no format of images")
    name = f'inline; filename="{job_id}-{index:08d}{suffix}"'
    body = read_image(page.parts.store, image)
    return Response(body, media_type=TYPES[suffix], headers={**CACHED, "Content-Disposition": name})


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
