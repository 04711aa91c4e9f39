"""Two jobs side by side: their images of the same item and seed."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from services.console.api.access import Reading, TokenRoute
from services.console.api.bodies import MOST_TOGETHER
from services.console.api.image_bodies import PairList, PairOfImages, SettingThatDiffers
from services.job_queue import clients, pairs, viewing
from training.experiments.fields import differences

router = APIRouter(tags=["images"], route_class=TokenRoute)


@router.get("/jobs/{job_id}/pairs")
def list_pairs(
    call: Reading,
    job_id: uuid.UUID,
    other: Annotated[uuid.UUID, Query(description="the job to compare with")],
    limit: Annotated[int, Query(ge=1, le=MOST_TOGETHER)] = 100,
    cursor: Annotated[int, Query(ge=-1, le=2**31 - 1, description="`next` of the answer before")] = -1,
) -> PairList:
    """List the images of two jobs that have the same index, item and seed, and the settings that differ."""
    with call.database() as connection:
        for one in (job_id, other):
            clients.find_summary(connection, one) or call.missing(f"Job {one}")
        found = pairs.list_pairs(connection, job_id, other, limit + 1, after=cursor)
        same_items = pairs.have_same_items(connection, job_id, other)
        changes = differences(*(viewing.find_settings(connection, one) for one in (job_id, other)))
    shown = [PairOfImages(**vars(pair)) for pair in found[:limit]]
    return PairList(
        pairs=shown,
        next=str(shown[-1].index) if len(found) > limit else None,
        same_items=same_items,
        settings=[SettingThatDiffers(name=name, left=left, right=right) for name, left, right in changes],
    )
