"""Jobs: submit, list, show, cancel and retry."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Response

from services.console.api.access import Reading, Submitting
from services.console.api.bodies import (
    MOST_TOGETHER,
    Cancelled,
    JobId,
    JobIds,
    JobInFull,
    JobInList,
    JobList,
    NewJob,
    Revision,
)
from services.job_queue import clients, viewing
from services.job_queue.states import JobState

router = APIRouter(prefix="/jobs", tags=["jobs"])

Key = Annotated[str | None, Header(description="One job for each key, however often the request is repeated")]


@router.post("", status_code=201)
def submit_job(call: Submitting, job: NewJob, response: Response, idempotency_key: Key = None) -> JobId:
    """Submit a job. With an idempotency key that a job has already, that job's id is the answer."""
    columns = job.columns()
    if idempotency_key is not None and columns.setdefault("idempotency_key", idempotency_key) != idempotency_key:
        raise HTTPException(422, "idempotency_key: differs from the header Idempotency-Key; give one of them.")
    with call.database() as connection:
        job_id = clients.submit_job(connection, columns)
    response.headers["Location"] = f"/api/v1/jobs/{job_id}"
    return JobId(id=job_id)


@router.get("")
def list_jobs(
    call: Reading,
    state: Annotated[list[JobState], Query(default_factory=list)],
    q: Annotated[str, Query(max_length=200, description="a part of the model, the idempotency key or the id")] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_TOGETHER)] = 100,
    cursor: Annotated[uuid.UUID | None, Query(description="`next` of the answer before")] = None,
) -> JobList:
    """List jobs, newest first."""
    chosen = viewing.JobFilter(state, q)
    with call.database() as connection:
        found = viewing.list_job_lines(connection, limit + 1, before=cursor, chosen=chosen, images=0)
    jobs = [JobInList.of(line) for line in found[:limit]]
    return JobList(jobs=jobs, next=str(jobs[-1].id) if len(found) > limit else None)


@router.get("/{job_id}")
def show_job(call: Reading, job_id: uuid.UUID) -> JobInFull:
    """Show a job."""
    with call.database() as connection:
        job = clients.find_summary(connection, job_id) or call.missing(f"Job {job_id}")
        progress = clients.find_progress(connection, job_id) or call.missing(f"Job {job_id}")
        return JobInFull.of(job, progress, viewing.find_settings(connection, job_id))


@router.post("/cancel")
def cancel_jobs(call: Submitting, jobs: JobIds) -> Cancelled:
    """Ask that jobs stop, all or none. Their stored images stay."""
    with call.database() as connection:
        return Cancelled(cancel_requested=clients.cancel_jobs(connection, jobs.ids))


@router.post("/{job_id}/cancel")
def cancel_job(call: Submitting, job_id: uuid.UUID) -> Cancelled:
    """Ask that a job stop. Its stored images stay."""
    with call.database() as connection:
        return Cancelled(cancel_requested=clients.cancel_jobs(connection, [job_id]))


@router.post("/{job_id}/retry")
def retry_job(call: Submitting, job_id: uuid.UUID) -> Revision:
    """Make the images of an ended job that failed or were never made."""
    with call.database() as connection:
        return Revision(revision=clients.retry_job(connection, job_id))
