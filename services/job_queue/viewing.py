"""What a viewer of the console sees: the jobs of one tenant, a page at a time.

Pages are cut by keys, never by offsets, so that the last page of a job of a million images costs what the first does.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.outputs import Output
from services.job_queue.states import JobState


def set_viewer(connection: Connection, tenant: str, *, is_operator: bool = False) -> None:
    """Let the transaction see and submit the jobs of one tenant. It has an effect for logins of the console alone."""
    connection.execute(
        text("SELECT set_config('darkroom.tenant', :tenant, true), set_config('darkroom.operator', :operator, true)"),
        {"tenant": tenant, "operator": "on" if is_operator else "off"},
    )


@dataclass(frozen=True)
class JobLine:
    """A job in a list. first_images: indices and sha256 of the first images that it has made."""

    id: uuid.UUID
    model: str
    queue: str
    priority: int
    state: JobState
    reason: str | None
    total: int
    succeeded: int
    failed: int
    created_at: datetime
    finished_at: datetime | None
    images_per_s: float | None
    expected_end: datetime | None
    waits_because: str | None
    first_images: list[tuple[int, str]]


# The page's jobs are found first, because the columns of `job_progress` are computed for each row.
LIST_JOBS = """
    WITH page AS (
        SELECT id FROM jobs WHERE id {side} :bound AND (CAST(:states AS text[]) IS NULL OR state = ANY(:states))
            AND (CAST(:words AS text) IS NULL OR model ILIKE :words OR idempotency_key ILIKE :words
                 OR CAST(id AS text) ILIKE :words)
        ORDER BY id {direction} LIMIT :limit
    )
    SELECT id, model, queue, priority, jobs.state, reason, jobs.total, succeeded, failed, created_at, finished_at,
        images_per_s, expected_end, waits_because,
        ARRAY(SELECT jsonb_build_array(index, sha256) FROM (
            SELECT index, sha256 FROM outputs WHERE job_id = jobs.id AND index < 64 AND sha256 IS NOT NULL
            ORDER BY index LIMIT :images) AS made) AS first_images
    FROM page JOIN jobs USING (id) JOIN job_progress USING (id) ORDER BY id DESC
"""
LARGEST_ID = uuid.UUID(int=2**128 - 1)


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list contains. words: a part of the model's name, the idempotency key or the id."""

    states: Sequence[JobState] = ()
    words: str = ""


EVERY_JOB = JobFilter()


def list_job_lines(
    connection: Connection,
    limit: int,
    *,
    before: uuid.UUID | None = None,
    after: uuid.UUID | None = None,
    chosen: JobFilter = EVERY_JOB,
    images: int = 4,
) -> list[JobLine]:
    """Return up to `limit` jobs, newest first: those older than `before`, or the oldest ones newer than `after`."""
    statement = LIST_JOBS.format(side=">" if after else "<", direction="ASC" if after else "DESC")
    values = {
        "bound": after or before or LARGEST_ID,
        "states": list(chosen.states) or None,
        "words": f"%{escape_like(chosen.words)}%" if chosen.words else None,
        "limit": limit,
        "images": images,
    }
    return [
        JobLine(**{**row._mapping, "state": JobState(row.state), "first_images": [tuple(i) for i in row.first_images]})
        for row in connection.execute(text(statement), values)
    ]


def escape_like(words: str) -> str:
    """Return a text for LIKE that stands for itself."""
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


# -- images ------------------------------------------------------------------------------------

IMAGE_COLUMNS = "index, item, seed, key, sha256, bytes, profile, error"
LIST_IMAGES = """
    SELECT {columns} FROM {images}
    WHERE job_id = :job AND index {side} :bound AND (CAST(:failed AS boolean) IS NULL OR (error IS NOT NULL) = :failed)
        AND (CAST(:item AS integer) IS NULL OR item = :item) AND (CAST(:seed AS bigint) IS NULL OR seed = :seed) {rated}
    ORDER BY index {direction} LIMIT :limit
"""


@dataclass(frozen=True)
class ImageFilter:
    """Which images of a job a gallery contains. failed: None for all. rating: the lowest."""

    failed: bool | None = None
    item: int | None = None
    seed: int | None = None
    rating: int | None = None


EVERY_IMAGE = ImageFilter()


def list_images(
    connection: Connection,
    job_id: uuid.UUID,
    limit: int,
    *,
    after: int = -1,
    before: int | None = None,
    chosen: ImageFilter = EVERY_IMAGE,
) -> list[Output]:
    """Return up to `limit` settled images of a job by index: those that follow `after`, or precede `before`."""
    backwards, are_rated = before is not None, chosen.rating is not None
    statement = LIST_IMAGES.format(
        columns=IMAGE_COLUMNS,
        images="ratings JOIN outputs USING (job_id, index)" if are_rated else "outputs",
        side="<" if backwards else ">",
        rated="AND rating >= :rating" if are_rated else "",
        direction="DESC" if backwards else "ASC",
    )
    values = {"job": job_id, "bound": before if backwards else after, "limit": limit, **vars(chosen)}
    found = [Output(**row._mapping) for row in connection.execute(text(statement), values)]
    return found[::-1] if backwards else found


def find_image(connection: Connection, job_id: uuid.UUID, index: int) -> Output | None:
    """Return a settled image of a job, or None if the tenant has no such image."""
    row = connection.execute(
        text(f"SELECT {IMAGE_COLUMNS} FROM outputs WHERE job_id = :job AND index = :index"),
        {"job": job_id, "index": index},
    ).first()
    return None if row is None else Output(**row._mapping)


def find_items(connection: Connection, job_id: uuid.UUID, first: int, last: int) -> dict[int, dict[str, Any]]:
    """Return the items first to last of a job's request by number; none if they are in an object of S3."""
    items = connection.scalar(
        text("""
            SELECT jsonb_path_query_array(request, '$.items[$first to $last]',
                jsonb_build_object('first', CAST(:first AS integer), 'last', CAST(:last AS integer)))
            FROM jobs WHERE id = :job
        """),
        {"job": job_id, "first": first, "last": last},
    )
    return {first + number: item for number, item in enumerate(items or ()) if isinstance(item, dict)}


def find_settings(connection: Connection, job_id: uuid.UUID) -> dict[str, Any]:
    """Return what a job's plan, or before planning its request, says about all of its images."""
    found = connection.scalar(
        text("SELECT coalesce(plan, request) - 'items' FROM jobs WHERE id = :job"), {"job": job_id}
    )
    return found if isinstance(found, dict) else {}


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
