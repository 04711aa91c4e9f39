"""Images that were made before, and the picks of a job."""

import re
import uuid
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from services.console.api.access import Reading, TokenRoute
from services.console.api.bodies import MOST_TOGETHER
from services.console.api.image_bodies import FoundImage, FoundList
from services.console.api.values import Day
from services.console.picks import send_set
from services.console.searching import Asked
from services.job_queue import clients
from services.job_queue.recall import Place, find_again

router = APIRouter(tags=["images"], route_class=TokenRoute)

CURSOR = re.compile(r"(?P<job>[0-9a-f-]{36})\.(?P<item>[0-9]{1,10})")
Word = Annotated[str, Query(max_length=200)]


@router.get("/images")
def find_images(
    call: Reading,
    q: Word = "",
    label: Word = "",
    tag: Annotated[str, Query(max_length=100)] = "",
    model: Word = "",
    seed: Annotated[int | None, Query(ge=-(2**63), le=2**63 - 1)] = None,
    since: Day | None = None,
    until: Day | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_TOGETHER)] = 100,
    cursor: Annotated[str | None, Query(max_length=50, description="`next` of the answer before")] = None,
) -> FoundList:
    """Find images of the tenant's jobs, newest first: an image of each item, or each image of a seed."""
    asked = Asked(q, label, tag, model, seed, since, until)
    place = None if cursor is None else _parse(cursor)
    with call.database() as connection:
        page = find_again(connection, asked.sought(connection), limit, after=place)
    following = None if page.next is None else f"{page.next.job_id}.{page.next.item}"
    return FoundList(images=[FoundImage(**vars(one)) for one in page.found], next=following)


@router.get("/jobs/{job_id}/picks.zip", response_class=Response, responses={200: {"content": {"application/zip": {}}}})
def read_picks(call: Reading, job_id: uuid.UUID, rating: Annotated[int, Query(ge=1, le=5)] = 1) -> Response:
    """Read the images that are rated so or better, as a set that a training reads."""
    with call.database() as connection:
        clients.find_summary(connection, job_id) or call.missing(f"Job {job_id}")
    return send_set(call.parts.store, call.database, job_id, rating)


def _parse(cursor: str) -> Place:
    match = CURSOR.fullmatch(cursor)
    try:
        assert match is not None
        return Place(uuid.UUID(match["job"]), int(match["item"]))
    except (AssertionError, ValueError):
        raise HTTPException(422, "cursor: not allowed; permitted: the `next` of an earlier response") from None
