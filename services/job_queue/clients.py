"""The statements of a client's login: submit, follow, change, cancel and retry the jobs of its tenant."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Connection, Row, text

from services.job_queue.plan import Plan
from services.job_queue.states import RETRYABLE, TERMINAL, JobState

TOGETHER = 1_000  # jobs of one statement


@dataclass(frozen=True)
class JobSummary:
    """A job's state and counts. docs/sql.md explains the columns."""

    id: uuid.UUID
    model: str
    queue: str
    priority: int
    state: JobState
    revision: int
    reason: str | None
    total: int
    succeeded: int
    failed: int
    manifest_key: str | None
    run_after: datetime | None
    deadline: datetime | None
    cancel_requested_at: datetime | None
    paused: bool
    tags: list[str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """Whether the job is in a terminal state."""
        return self.state in TERMINAL

    @property
    def has_succeeded(self) -> bool:
        """Whether the job has ended with all of its images."""
        return self.state == JobState.SUCCEEDED

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """Make a job of a row that has its columns."""
        return cls(**{**row._mapping, "state": JobState(row.state)})


@dataclass(frozen=True)
class Job(JobSummary):
    """A job with its plan, None before it is planned, and its request. estimate: of a dry run that was valid."""

    plan: Plan | None
    request: dict[str, Any]
    estimate: dict[str, Any] | None

    @property
    def can_be_retried(self) -> bool:
        """Whether `retry_job` accepts it: it was planned and ended without all of its images."""
        return self.state in RETRYABLE and self.plan is not None


@dataclass(frozen=True)
class Progress:
    """How far a job is, from the view `job_progress`, which docs/sql.md explains."""

    state: JobState
    total: int
    settled: int
    images_per_s: float | None
    expected_end: datetime | None
    waits_because: str | None

    @property
    def has_ended(self) -> bool:
        """Whether the job is in a terminal state."""
        return self.state in TERMINAL


SUMMARY_COLUMNS = ", ".join(JobSummary.__dataclass_fields__)
JOB_COLUMNS = ", ".join(Job.__dataclass_fields__)


def submit_job(connection: Connection, job: Mapping[str, Any]) -> uuid.UUID:
    """Submit a job, given by the fields of the SQL function `submit_job`. Returns its id."""
    job_id = connection.scalar(text("SELECT submit_job(CAST(:job AS jsonb))"), {"job": json.dumps(job)})
    return uuid.UUID(str(job_id))


def submit_jobs(connection: Connection, jobs: Sequence[Any]) -> Iterator[uuid.UUID]:
    """Submit jobs, up to TOGETHER in one statement, and yield their ids in order."""
    for start in range(0, len(jobs), TOGETHER):
        values = {"jobs": json.dumps(jobs[start : start + TOGETHER])}
        yield from connection.scalars(text("SELECT submit_jobs(CAST(:jobs AS jsonb))"), values)


def find_job(connection: Connection, job_id: uuid.UUID) -> Job | None:
    """Return a job, or None if the tenant has no job of this id."""
    row = connection.execute(text(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = :id"), {"id": job_id}).first()
    return None if row is None else Job.from_row(row)


def find_summary(connection: Connection, job_id: uuid.UUID) -> JobSummary | None:
    """Return a job without its request and plan, which may be megabytes, or None if the tenant has no such job."""
    row = connection.execute(text(f"SELECT {SUMMARY_COLUMNS} FROM jobs WHERE id = :id"), {"id": job_id}).first()
    return None if row is None else JobSummary.from_row(row)


def find_progress(connection: Connection, job_id: uuid.UUID) -> Progress | None:
    """Return how far a job is, or None if the tenant has no such job."""
    columns = ", ".join(Progress.__dataclass_fields__)
    row = connection.execute(text(f"SELECT {columns} FROM job_progress WHERE id = :id"), {"id": job_id}).first()
    return None if row is None else Progress(**{**row._mapping, "state": JobState(row.state)})


def cancel_jobs(connection: Connection, job_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Ask that jobs stop; their stored images stay. Returns those that had not ended; others are left unchanged."""
    rows = connection.execute(text("SELECT id, state FROM cancel_jobs(CAST(:ids AS uuid[]))"), {"ids": list(job_ids)})
    return [row.id for row in rows if row.state not in TERMINAL]


def change_jobs(connection: Connection, job_ids: Sequence[uuid.UUID], changes: Mapping[str, Any]) -> list[uuid.UUID]:
    """Ask that jobs change, as the SQL function `change_job` says. Returns those that had not ended."""
    query = text("SELECT id, change_job(id, CAST(:changes AS jsonb)) AS state FROM unnest(CAST(:ids AS uuid[])) AS id")
    rows = connection.execute(query, {"ids": list(job_ids), "changes": json.dumps(changes)})
    return [row.id for row in rows if row.state not in TERMINAL]


def retry_job(connection: Connection, job_id: uuid.UUID) -> int:
    """Start the next revision of an ended job, which makes the images that are missing. Returns its number."""
    return int(connection.execute(text("SELECT retry_job(:id)"), {"id": job_id}).scalar_one())
