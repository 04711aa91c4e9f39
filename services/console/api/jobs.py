"""Jobs: submit, list, show, change, cancel and retry, one or many."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Response
from pydantic import Field

from services.console.api.access import Reading, Submitting, TokenRoute
from services.console.api.bodies import (
    MOST_TOGETHER,
    Bulk,
    BulkDone,
    Cancelled,
    Changed,
    Changes,
    JobId,
    JobIds,
    JobInFull,
    JobInList,
    JobList,
    NewJob,
    NewJobs,
    ReasonInList,
    Reasons,
    Revision,
    Revisions,
    SubmittedIds,
)
from services.console.api.values import Moment
from services.console.bulk import MEANT, act_in_sets
from services.job_queue import clients, failures, viewing
from services.job_queue.job_filters import JobFilter, count_jobs, find_jobs
from services.job_queue.states import JobState

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=TokenRoute)

MOST_REASONS = 100
LONGEST_MANIFEST = 2**24  # bytes
Tag = Annotated[str, Field(max_length=100)]
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


@router.post("/batch", status_code=201)
def submit_jobs(call: Submitting, jobs: NewJobs, idempotency_key: Key = None) -> SubmittedIds:
    """Submit up to 1,000 jobs, all or none. Each job has an idempotency key of its own."""
    if idempotency_key is not None:
        raise HTTPException(422, "Idempotency-Key: not for many jobs; give each its own as jobs[n].idempotency_key.")
    with call.database() as connection:
        return SubmittedIds(ids=list(clients.submit_jobs(connection, [job.columns() for job in jobs.jobs])))


@router.get("")
def list_jobs(
    call: Reading,
    state: Annotated[list[JobState], Query(default_factory=list)],
    tag: Annotated[list[Tag], Query(default_factory=list, max_length=16, description="a job has all of them")],
    q: Annotated[str, Query(max_length=200, description="a part of the model, the idempotency key or the id")] = "",
    model: Annotated[str | None, Query(max_length=200, description="as submitted, or its name alone")] = None,
    queue: Annotated[str | None, Query(max_length=63)] = None,
    since: Moment | None = None,
    until: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_TOGETHER)] = 100,
    cursor: Annotated[uuid.UUID | None, Query(description="`next` of the answer before")] = None,
) -> JobList:
    """List jobs, newest first."""
    which = JobFilter(state, tag, model, queue, since, until, q)
    with call.database() as connection:
        found = viewing.list_job_lines(connection, limit + 1, before=cursor, which=which, images=0)
    jobs = [JobInList.of(line) for line in found[:limit]]
    return JobList(jobs=jobs, next=str(jobs[-1].id) if len(found) > limit else None)


@router.get("/{job_id:uuid}")  # and not /jobs/batch, which then answers 405
def show_job(call: Reading, job_id: uuid.UUID) -> JobInFull:
    """Show a job."""
    with call.database() as connection:
        job = clients.find_summary(connection, job_id) or call.missing(f"Job {job_id}")
        progress = clients.find_progress(connection, job_id) or call.missing(f"Job {job_id}")
        return JobInFull.of(
            job, progress, viewing.find_settings(connection, job_id), viewing.find_estimate(connection, job_id)
        )


@router.post("/cancel")
def cancel_jobs(call: Submitting, jobs: JobIds) -> Cancelled:
    """Ask that jobs stop, all or none. Their stored images stay."""
    with call.database() as connection:
        return Cancelled(cancel_requested=clients.cancel_jobs(connection, jobs.ids))


@router.post("/retry")
def retry_jobs(call: Submitting, jobs: JobIds) -> Revisions:
    """Make the images of ended jobs that failed or were never made, of all of these jobs or of none."""
    with call.database() as connection:
        return Revisions(revisions={one: clients.retry_job(connection, one) for one in dict.fromkeys(jobs.ids)})


@router.post("/many")
def act_on_many(call: Submitting, bulk: Bulk) -> BulkDone:
    """Do one thing to all jobs that meet a filter and were submitted before the request, or count them."""
    until = min(datetime.now(UTC), bulk.until) if bulk.until else datetime.now(UTC)
    which = JobFilter(bulk.states, bulk.tags, bulk.model, bulk.queue, bulk.since, until, bulk.q)
    if bulk.count_only:
        with call.database() as connection:
            return BulkDone(jobs=count_jobs(connection, which, MEANT[bulk.action]))
    done = act_in_sets(
        call.database, lambda connection, last: find_jobs(connection, which, MEANT[bulk.action], after=last),
        bulk.action, priority="" if bulk.priority is None else str(bulk.priority),
    )  # fmt: skip
    return BulkDone(jobs=done)


@router.patch("/{job_id:uuid}", status_code=202)
def change_job(call: Submitting, job_id: uuid.UUID, changes: Changes) -> Changed:
    """Ask that a job change: its priority, whether it is paused, its tags, its deadline."""
    with call.database() as connection:
        return Changed(change_requested=clients.change_jobs(connection, [job_id], changes.given()))


@router.get("/{job_id}/manifest", response_class=Response, responses={200: {"content": {"application/json": {}}}})
def read_manifest(call: Reading, job_id: uuid.UUID) -> Response:
    """Read the manifest of an ended job, which names its listings and archives."""
    with call.database() as connection:
        job = clients.find_summary(connection, job_id) or call.missing(f"Job {job_id}")
    if job.manifest_key is None:
        raise HTTPException(409, f"job {job_id} has no manifest: it is {job.state}")
    try:
        body = call.parts.store.get_at_most(job.manifest_key, LONGEST_MANIFEST)
    except ValueError as error:
        raise HTTPException(404, str(error)) from None
    return Response(body, media_type="application/json")


@router.get("/{job_id}/reasons")
def list_reasons(call: Reading, job_id: uuid.UUID) -> Reasons:
    """List why images of a job failed."""
    with call.database() as connection:
        clients.find_summary(connection, job_id) or call.missing(f"Job {job_id}")
        found = failures.list_reasons(connection, job_id, MOST_REASONS)
    return Reasons(reasons=[ReasonInList(**vars(one)) for one in found])


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
