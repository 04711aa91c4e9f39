"""What planning reads and writes: a submitted job, its plan, or its rejection."""

import json
import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.job_queue.leases import Lease, complete
from services.job_queue.plan import Plan


@dataclass(frozen=True)
class SubmittedJob:
    """A job to plan and the limits of its tenant. `plan` and `release_id` are those of its earlier revision, if any."""

    model: str
    request: str  # JSON
    plan: Plan | None
    release_id: int | None
    permitted_releases: list[str]
    write_prefixes: list[str]
    read_prefixes: list[str]
    max_job_images: int


def find_submitted_job(connection: Connection, job_id: uuid.UUID) -> SubmittedJob:
    """Return the job to plan, which exists as long as its planning is leased."""
    row = connection.execute(
        text("""
            SELECT jobs.model, CAST(jobs.request AS text) AS request, jobs.plan, jobs.release_id,
                   tenants.permitted_releases, tenants.write_prefixes, tenants.read_prefixes, tenants.max_job_images
            FROM jobs JOIN tenants ON tenants.name = jobs.tenant WHERE jobs.id = :id
        """),
        {"id": job_id},
    ).one()
    return SubmittedJob(**row._mapping)


def reject_job(connection: Connection, lease: Lease, reason: str) -> None:
    """End a job that cannot run; `reason` tells its author why. Raises LeaseLost."""
    complete(connection, lease)
    connection.execute(
        text("UPDATE jobs SET state = 'rejected', reason = :reason, finished_at = now() "
             "WHERE id = :id AND state = 'submitted'"),
        {"id": lease.job_id, "reason": reason},
    )  # fmt: skip


def record_plan(connection: Connection, lease: Lease, *, plan: Plan, release_id: int, total: int) -> None:
    """Record the plan of a job whose shards were added in the same transaction. Raises LeaseLost."""
    complete(connection, lease)
    connection.execute(
        text("""
            UPDATE jobs SET state = 'planned', plan = CAST(:plan AS jsonb), release_id = :release, total = :total
            WHERE id = :id AND state = 'submitted'
        """),
        {"id": lease.job_id, "plan": json.dumps(plan), "release": release_id, "total": total},
    )
