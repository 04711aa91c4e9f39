"""Jobs past the retention of their tenant: found, marked, and deleted in transactions of bounded size."""

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text

PAGE = 1_000  # jobs that are listed at once
BATCH = 10_000  # outputs that are deleted in one transaction

# A marked job stays expired, whatever its tenant's retention becomes.
EXPIRED = """
    tenants.name = jobs.tenant AND (jobs.expired_at IS NOT NULL
        OR jobs.finished_at < now() - make_interval(days => tenants.retention_days))
"""


@dataclass(frozen=True)
class ExpiredJob:
    """An ended job past its retention, and how many images it stored."""

    id: uuid.UUID
    tenant: str
    images: int


@dataclass(frozen=True)
class StoredJob:
    """Where a job's objects are; None if it was never planned, so that it has none.

    unpacked_prefix: under which planning has unpacked its input, if it has one.
    """

    output_prefix: str | None
    image_format: str | None
    has_names: bool = False  # of its images, from a template
    unpacked_prefix: str | None = None


def expired_jobs(connection: Connection, after: uuid.UUID | None = None) -> list[ExpiredJob]:
    """Return the first PAGE jobs past their retention whose ids follow `after`, the oldest first."""
    rows = connection.execute(
        text(f"""
            SELECT jobs.id, tenant, succeeded FROM jobs, tenants
            WHERE {EXPIRED} AND jobs.id > coalesce(CAST(:after AS uuid), uuid '{uuid.UUID(int=0)}')
            ORDER BY jobs.id LIMIT {PAGE}
        """),
        {"after": after},
    )
    return [ExpiredJob(row.id, row.tenant, row.succeeded) for row in rows]


def mark_expired(connection: Connection, job_id: uuid.UUID) -> StoredJob | None:
    """Mark a job as expired, after which it cannot be retried, or return None if it is not past its retention now."""
    row = connection.execute(
        text(f"""
            UPDATE jobs SET expired_at = coalesce(expired_at, now()) FROM tenants WHERE jobs.id = :id AND {EXPIRED}
            RETURNING plan ->> 'output_prefix' AS output_prefix, plan ->> 'format' AS image_format,
                coalesce(plan -> 'output' ? 'name', false) AS has_names,
                CASE WHEN request ? 'input_uri' THEN tenants.write_prefixes[1] END AS unpacked_prefix
        """),
        {"id": job_id},
    ).first()
    return None if row is None else StoredJob(**row._mapping)


def last_output(connection: Connection, job_id: uuid.UUID) -> int:
    """Return the highest index of a job's outputs, -1 if it has none."""
    query = text("SELECT coalesce(max(index), -1) FROM outputs WHERE job_id = :id")
    return int(connection.execute(query, {"id": job_id}).scalar_one())


def delete_outputs(connection: Connection, job_id: uuid.UUID, start: int, stop: int) -> None:
    """Delete the outputs [start, stop) of a job, and those of its stages."""
    for table in ("outputs", "stage_outputs"):
        connection.execute(
            text(f"DELETE FROM {table} WHERE job_id = :id AND index >= :start AND index < :stop"),
            {"id": job_id, "start": start, "stop": stop},
        )


def forget_stage_images(connection: Connection) -> list[str]:
    """Delete up to BATCH rows of images that stages of ended chains need not keep, and return the keys."""
    query = text(f"""
        WITH unneeded AS (
            SELECT stage_outputs.job_id, index, stage FROM stage_outputs
            JOIN job_stages USING (job_id, stage) JOIN jobs ON jobs.id = job_id
            WHERE finished_at IS NOT NULL AND NOT keep LIMIT {BATCH} FOR UPDATE OF jobs SKIP LOCKED
        )
        DELETE FROM stage_outputs USING unneeded
        WHERE (stage_outputs.job_id, stage_outputs.index, stage_outputs.stage)
            = (unneeded.job_id, unneeded.index, unneeded.stage)
        RETURNING key
    """)
    return list(connection.scalars(query))


def delete_marked(connection: Connection, job_id: uuid.UUID) -> None:
    """Delete a job that is marked as expired, with its work."""
    connection.execute(text("DELETE FROM jobs WHERE id = :id AND expired_at IS NOT NULL"), {"id": job_id})
