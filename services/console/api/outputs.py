"""Endpoints for the images of a job: the list, files, settings and ratings."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.console.api.access import Reading, Submitting, TokenRoute
from services.console.api.bodies import MOST_TOGETHER
from services.console.api.image_bodies import NewRating, OutputInFull, OutputInList, OutputList
from services.console.files import CACHED, Index, send_image
from services.console.making import MOST_WORDS, find_classes, find_origin
from services.console.thumbnails import SIZES
from services.job_queue import clients, viewing
from services.job_queue.gallery import ImageFilter, list_images
from services.job_queue.ratings import find_ratings, rate

router = APIRouter(prefix="/jobs/{job_id}/outputs", tags=["outputs"], route_class=TokenRoute)


@router.get("")
def list_outputs(
    call: Reading,
    job_id: uuid.UUID,
    failed: bool | None = None,
    item: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    seed: Annotated[int | None, Query(ge=-(2**63), le=2**63 - 1)] = None,
    rating: Annotated[int | None, Query(ge=1, le=5, description="or better")] = None,
    q: Annotated[str, Query(max_length=200, description="words of the item's texts, such as its caption")] = "",
    label: Annotated[str, Query(max_length=200, description="the number or the name of a class")] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_TOGETHER)] = 100,
    cursor: Annotated[int, Query(ge=-1, le=2**31 - 1, description="`next` of the answer before")] = -1,
) -> OutputList:
    """List the images of a job that are stored or failed, by index."""
    with call.database() as connection:
        clients.find_progress(connection, job_id) or call.missing(f"Job {job_id}")
        labels = find_classes(connection, job_id).labels_of(label)
        chosen = ImageFilter(failed, item, seed, rating, q.split()[:MOST_WORDS], labels)
        found = list_images(connection, job_id, limit + 1, after=cursor, chosen=chosen)
        shown = found[:limit]
        stars = find_ratings(connection, job_id, shown[0].index, shown[-1].index) if shown else {}
    outputs = [OutputInList(**vars(output), rating=stars.get(output.index)) for output in shown]
    return OutputList(outputs=outputs, next=str(outputs[-1].index) if len(found) > limit else None)


@router.get("/{index}")
def show_output(call: Reading, job_id: uuid.UUID, index: Index) -> OutputInFull:
    """Show an image: what it was made of, and a request that makes it again."""
    with call.database() as connection:
        image = viewing.find_image(connection, job_id, index) or call.missing(f"Image {index} of job {job_id}")
        job = clients.find_summary(connection, job_id) or call.missing(f"Job {job_id}")
        making = find_origin(connection, image, job).making
        stars = find_ratings(connection, job_id, index, index).get(index)
    fields, request = (making.item, making.request) if making else (None, None)
    model = making.model if making else job.model
    return OutputInFull(**vars(image), rating=stars, model=model, fields=fields, request=request)


@router.put("/{index}/rating", status_code=204)
def rate_output(call: Submitting, job_id: uuid.UUID, index: Index, rating: NewRating) -> None:
    """Rate an image, or remove its rating."""
    with call.database() as connection:
        rate(connection, job_id, index, rating.rating, call.token.name) or call.missing(f"Image {index} of {job_id}")


@router.get("/{index}/{size}.webp", response_class=Response, responses={200: {"content": {"image/webp": {}}}})
def read_thumbnail(call: Reading, job_id: uuid.UUID, index: Index, size: int) -> Response:
    """Read a small copy of an image. size: pixels of its longer side: 128, 256 or 512."""
    if size not in SIZES:
        call.missing(f"A copy of {size} pixels (permitted: {', '.join(map(str, SIZES))})")
    with call.database() as connection:
        image = viewing.find_image(connection, job_id, index) or call.missing(f"Image {index} of job {job_id}")
    copy = call.parts.thumbnails.get(call.parts.store, image, size)
    return Response(copy, media_type="image/webp", headers=CACHED)


@router.get("/{index}/file", response_class=Response, responses={200: {"content": {"image/*": {}}}})
def read_file(call: Reading, request: Request, job_id: uuid.UUID, index: Index) -> Response:
    """Read an image as it was stored. Its bytes have the recorded sha256, which is its ETag."""
    with call.database() as connection:
        image = viewing.find_image(connection, job_id, index) or call.missing(f"Image {index} of job {job_id}")
    return send_image(request, call.parts.store, job_id, image)
