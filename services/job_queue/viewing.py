"""The jobs of a tenant as the console shows them, a page at a time.

Pages are cut by keys, never by offsets, so that the last page of a job of a million images costs what the first does.
"""

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.clients import JobSummary
from services.job_queue.job_filters import EVERY_JOB, JobFilter, conditions_of
from services.job_queue.outputs import Output
from services.job_queue.states import JobState


def set_viewer(connection: Connection, tenant: str, *, is_operator: bool = False) -> None:
    """Let the transaction see and submit the jobs of one tenant. It has an effect for logins of the console alone."""
    connection.execute(
        text("SELECT set_config('darkroom.tenant', :tenant, true), set_config('darkroom.operator', :operator, true)"),
        {"tenant": tenant, "operator": "on" if is_operator else "off"},
    )


@dataclass(frozen=True)
class JobLine(JobSummary):
    """A job in a list. first_images: indices and sha256 of the first images that it has made."""

    images_per_s: float | None
    expected_end: datetime | None
    waits_because: str | None
    first_images: list[tuple[int, str]]


# The page's jobs are found first, because the columns of `job_progress` are computed for each row.
LIST_JOBS = """
    WITH page AS (SELECT id FROM jobs WHERE id {side} :bound AND {where} ORDER BY id {direction} LIMIT :limit)
    SELECT id, model, queue, priority, paused, tags, jobs.state, revision, reason, jobs.total, succeeded, failed,
        manifest_key, run_after, deadline, cancel_requested_at, created_at, started_at, finished_at, images_per_s,
        expected_end, waits_because,
        ARRAY(SELECT jsonb_build_array(index, sha256) FROM (
            SELECT index, sha256 FROM outputs WHERE job_id = jobs.id AND index < 64 AND sha256 IS NOT NULL
            ORDER BY index LIMIT :images) AS made) AS first_images
    FROM page JOIN jobs USING (id) JOIN job_progress USING (id) ORDER BY id DESC
"""
LARGEST_ID = uuid.UUID(int=2**128 - 1)


def list_job_lines(
    connection: Connection,
    limit: int,
    *,
    before: uuid.UUID | None = None,
    after: uuid.UUID | None = None,
    which: JobFilter = EVERY_JOB,
    images: int = 4,
) -> list[JobLine]:
    """Return up to `limit` jobs, newest first: those older than `before`, or the oldest ones newer than `after`."""
    where, values = conditions_of(which)
    statement = LIST_JOBS.format(side=">" if after else "<", direction="ASC" if after else "DESC", where=where)
    values |= {"bound": after or before or LARGEST_ID, "limit": limit, "images": images}
    return [
        JobLine(**{**row._mapping, "state": JobState(row.state), "first_images": [tuple(i) for i in row.first_images]})
        for row in connection.execute(text(statement), values)
    ]


# -- images ------------------------------------------------------------------------------------

IMAGE_COLUMNS = "index, item, seed, key, sha256, bytes, profile, error"


def find_image(connection: Connection, job_id: uuid.UUID, index: int) -> Output | None:
    """Return a settled image of a job, or None if the tenant has no such image."""
    row = connection.execute(
        text(f"SELECT {IMAGE_COLUMNS} FROM outputs WHERE job_id = :job AND index = :index"),
        {"job": job_id, "index": index},
    ).first()
    return None if row is None else Output(**row._mapping)


def find_items(connection: Connection, job_id: uuid.UUID, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Return items of a job by number, those of interpolations and grids too; none of an object of S3."""
    rows = connection.execute(
        text("""
            SELECT number, items -> number AS item FROM unnest(CAST(:numbers AS integer[])) AS number CROSS JOIN (
                SELECT coalesce(plan, request) -> 'items' AS items FROM jobs WHERE id = :job OFFSET 0) AS of_job
        """),
        {"job": job_id, "numbers": list(set(numbers))},
    )
    return {number: item for number, item in rows if isinstance(item, dict)}


def find_settings(connection: Connection, job_id: uuid.UUID) -> dict[str, Any]:
    """Return what a job's plan, or before planning its request, says about all of its images."""
    found = connection.scalar(
        text("SELECT coalesce(plan, request) - 'items' FROM jobs WHERE id = :job"), {"job": job_id}
    )
    return found if isinstance(found, dict) else {}


def find_request(connection: Connection, job_id: uuid.UUID) -> dict[str, Any] | None:
    """Return the request of a job as it was submitted, or None if there is none, or it is no object."""
    found = connection.scalar(text("SELECT request FROM jobs WHERE id = :job"), {"job": job_id})
    return found if isinstance(found, dict) else None


def find_release_id(connection: Connection, job_id: uuid.UUID) -> int | None:
    """Return the id of the release that a planned job is pinned to."""
    found: int | None = connection.scalar(text("SELECT release_id FROM jobs WHERE id = :job"), {"job": job_id})
    return found


def find_estimate(connection: Connection, job_id: uuid.UUID) -> dict[str, Any] | None:
    """Return the estimate of a dry run that was valid."""
    found: dict[str, Any] | None = connection.scalar(text("SELECT estimate FROM jobs WHERE id = :job"), {"job": job_id})
    return found


# -- news --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobCounts:
    """What changes of a job while it runs."""

    id: uuid.UUID
    state: JobState
    revision: int
    total: int
    succeeded: int
    failed: int


def list_counts(connection: Connection, jobs: Collection[uuid.UUID]) -> list[JobCounts]:
    """Return the counts of those of these jobs that the viewer sees."""
    rows = connection.execute(
        text("SELECT id, state, revision, total, succeeded, failed FROM jobs WHERE id = ANY(:ids) ORDER BY id"),
        {"ids": list(jobs)},
    )
    return [JobCounts(**{**row._mapping, "state": JobState(row.state)}) for row in rows]


def watch_jobs(connection: Connection, jobs: Collection[uuid.UUID]) -> None:
    """Have the changes of those of these jobs announced that the viewer sees, for two minutes."""
    connection.execute(text("SELECT watch_jobs(CAST(:ids AS uuid[]))"), {"ids": list(jobs)})
