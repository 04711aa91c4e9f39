"""The search page: the images of the viewer's tenant, by caption, class, tag, seed, release and date."""

import uuid
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from services.console.page import EMPTY_IS_NONE, Page
from services.console.searching import Asked
from services.job_queue.recall import LAST_ITEM, Place, find_again

router = APIRouter()

Word = Annotated[str, Query(max_length=200)]
Day = Annotated[date | None, EMPTY_IS_NONE]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
FOUND_PER_PAGE = 60


@router.get("/recall")
def recall(
    page: Page,
    tag: Annotated[str, Query(max_length=100)] = "",
    q: Word = "",
    label: Word = "",
    model: Word = "",
    seed: Annotated[Seed | None, EMPTY_IS_NONE] = None,
    since: Day = None,
    until: Day = None,
    job: uuid.UUID | None = None,
    item: Annotated[int, Query(ge=0, le=LAST_ITEM)] = LAST_ITEM,
) -> Response:
    """Show images that were made before, newest first. until: with that day. job, item: where the search continues."""
    given = Asked(q, label.strip(), tag.strip(), model.strip(), seed, since, until)
    with page.database() as connection:
        found = find_again(
            connection, given.sought(connection), FOUND_PER_PAGE, after=None if job is None else Place(job, item)
        )
    filters = {
        "q": q, "label": label, "tag": tag, "model": model, "seed": seed,
        "since": since and since.isoformat(), "until": until and until.isoformat(),
    }  # fmt: skip
    return page.render("recall.html", page=found, filters=filters)
