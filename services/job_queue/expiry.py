"""Jobs past the retention of their tenant."""

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.job_queue.plan import Plan

EXPIRED = """
    jobs.finished_at < now() - make_interval(days => tenants.retention_days) AND tenants.name = jobs.tenant
"""


@dataclass(frozen=True)
class ExpiredJob:
    """An ended job past its retention, and how many images it stored."""

    id: uuid.UUID
    tenant: str
    images: int


@dataclass(frozen=True)
class DeletedJob:
    """A job whose rows were deleted, and its plan, None if it was never planned."""

    id: uuid.UUID
    plan: Plan | None


def expired_jobs(connection: Connection) -> list[ExpiredJob]:
    """Return the jobs past their retention, the oldest first."""
    rows = connection.execute(
        text(f"SELECT jobs.id, tenant, succeeded FROM jobs, tenants WHERE {EXPIRED} ORDER BY jobs.id")
    )
    return [ExpiredJob(row.id, row.tenant, row.succeeded) for row in rows]


def delete_expired_job(connection: Connection, job_id: uuid.UUID) -> DeletedJob | None:
    """Delete a job with its work and outputs, or return None if it is not past its retention now.

    The condition is checked again here because a retried job has not ended any more.
    """
    row = connection.execute(
        text(f"DELETE FROM jobs USING tenants WHERE jobs.id = :id AND {EXPIRED} RETURNING jobs.id, plan"),
        {"id": job_id},
    ).first()
    if row is None:
        return None
    connection.execute(text("DELETE FROM outputs WHERE job_id = :id"), {"id": job_id})
    return DeletedJob(row.id, row.plan)
