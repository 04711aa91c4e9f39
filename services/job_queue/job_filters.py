"""Filters of a tenant's jobs: by state, tags, model, queue and time of submission."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.clients import SUMMARY_COLUMNS, TOGETHER, JobSummary
from services.job_queue.states import RETRYABLE, JobState


@dataclass(frozen=True)
class JobFilter:
    """Jobs that meet every condition; what is left out is none.

    states: any of them. tags: a job must have all of them. model: as it was submitted, or its name alone. since, until:
    submitted at since or later, and before until. words: a part of the model, the idempotency key or the id.
    """

    states: Sequence[JobState] = ()
    tags: Sequence[str] = ()
    model: str | None = None
    queue: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    words: str = ""


CONDITIONS = {
    "states": "state = ANY(:states)",
    "tags": "tags @> CAST(:tags AS text[])",
    "model": "(model = :model OR split_part(model, '@', 1) = :model)",
    "queue": "queue = :queue",
    "since": "created_at >= :since",
    "until": "created_at < :until",
    "words": "(model ILIKE :words OR idempotency_key ILIKE :words OR CAST(jobs.id AS text) ILIKE :words)",
}
OPEN = "finished_at IS NULL"
PAUSED = f"{OPEN} AND paused"
RETRIED = ", ".join(f"'{state}'" for state in sorted(RETRYABLE))
CAN_BE_RETRIED = f"state IN ({RETRIED}) AND plan IS NOT NULL AND expired_at IS NULL"
EVERY_JOB = JobFilter()


def escape_like(words: str) -> str:
    """Escape a text for LIKE."""
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def conditions_of(which: JobFilter) -> tuple[str, dict[str, Any]]:
    """Return a filter as a condition on rows of `jobs`, and the values of its parameters."""
    given = {name: getattr(which, name) for name in CONDITIONS if getattr(which, name)}
    values = {name: list(value) if name in ("states", "tags") else value for name, value in given.items()}
    if which.words:
        values["words"] = f"%{escape_like(which.words)}%"
    return " AND ".join(["true", *(CONDITIONS[name] for name in given)]), values


def list_jobs(connection: Connection, limit: int, which: JobFilter = EVERY_JOB) -> list[JobSummary]:
    """Return up to `limit` jobs, newest first."""
    where, values = conditions_of(which)
    query = text(f"SELECT {SUMMARY_COLUMNS} FROM jobs WHERE {where} ORDER BY id DESC LIMIT :limit")
    return [JobSummary.from_row(row) for row in connection.execute(query, {**values, "limit": limit})]


def find_jobs(
    connection: Connection, which: JobFilter, only: str = OPEN, *, after: uuid.UUID | None = None, limit: int = TOGETHER
) -> list[uuid.UUID]:
    """Return up to `limit` jobs, oldest first, from the one that follows `after`.

    only: OPEN, PAUSED or CAN_BE_RETRIED.
    """
    where, values = conditions_of(which)
    query = text(f"SELECT id FROM jobs WHERE {where} AND {only} AND id > :after ORDER BY id LIMIT :limit")
    return list(connection.scalars(query, {**values, "after": after or uuid.UUID(int=0), "limit": limit}))


def count_jobs(connection: Connection, which: JobFilter, only: str = OPEN) -> int:
    """Return how many jobs there are. only: OPEN, PAUSED or CAN_BE_RETRIED."""
    where, values = conditions_of(which)
    return int(connection.execute(text(f"SELECT count(*) FROM jobs WHERE {where} AND {only}"), values).scalar_one())
