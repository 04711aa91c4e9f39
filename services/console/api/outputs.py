"""Images of a job: the list, and their files."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from services.console.api.access import Reading
from services.console.api.bodies import MOST_TOGETHER, OutputInList, OutputList
from services.console.files import Index, send_image
from services.job_queue import clients, viewing

router = APIRouter(prefix="/jobs/{job_id}/outputs", tags=["outputs"])


@router.get("")
def list_outputs(
    call: Reading,
    job_id: uuid.UUID,
    failed: bool | None = None,
    item: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_TOGETHER)] = 100,
    cursor: Annotated[int, Query(ge=-1, le=2**31 - 1, description="`next` of the answer before")] = -1,
) -> OutputList:
    """List the images of a job that are stored or failed, by index."""
    with call.database() as connection:
        clients.find_progress(connection, job_id) or call.missing(f"Job {job_id}")
        chosen = viewing.ImageFilter(failed, item)
        found = viewing.list_images(connection, job_id, limit + 1, after=cursor, chosen=chosen)
    outputs = [OutputInList(**vars(output)) for output in found[:limit]]
    return OutputList(outputs=outputs, next=str(outputs[-1].index) if len(found) > limit else None)


@router.get("/{index}/file", response_class=Response, responses={200: {"content": {"image/*": {}}}})
def read_file(call: Reading, job_id: uuid.UUID, index: Index) -> Response:
    """Read an image as it was stored. Its bytes have the recorded sha256."""
    with call.database() as connection:
        image = viewing.find_image(connection, job_id, index) or call.missing(f"Image {index} of job {job_id}")
    return send_image(call.parts.store, job_id, image)
