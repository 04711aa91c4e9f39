"""Rows that the service cannot handle. A job that is set aside has failed with a reason; nothing else of it is read."""

import uuid

from sqlalchemy import Connection, text

from services.job_queue.leases import FREE

BATCH = 1_000  # pieces of work of one transaction


def set_work_aside(connection: Connection, work_id: int, reason: str) -> uuid.UUID | None:
    """End work that cannot be handled. Returns its job, which the caller sets aside too, or None if it has ended."""
    job_id: uuid.UUID | None = connection.scalar(
        text(f"""
            UPDATE work SET state = 'failed', run_after = NULL, {FREE}, error = :reason
            WHERE id = :id AND state IN ('ready', 'delayed', 'leased') RETURNING job_id
        """),
        {"id": work_id, "reason": reason},
    )
    return job_id


def cancel_open_work(connection: Connection, job_id: uuid.UUID) -> int:
    """Cancel up to BATCH pieces of unclaimed work of a job. Returns how many."""
    return connection.execute(
        text("""
            UPDATE work SET state = 'cancelled', run_after = NULL WHERE id IN (
                SELECT id FROM work WHERE job_id = :id AND state IN ('ready', 'delayed') LIMIT :limit
                FOR UPDATE SKIP LOCKED)
        """),
        {"id": job_id, "limit": BATCH},
    ).rowcount


def set_job_aside(connection: Connection, job_id: uuid.UUID, reason: str) -> bool:
    """Fail a job, whatever its state. Workers then drop its shards. Returns False if it has ended."""
    return bool(
        connection.execute(
            text("UPDATE jobs SET state = 'failed', reason = :reason, finished_at = now() "
                 "WHERE id = :id AND finished_at IS NULL"),
            {"id": job_id, "reason": reason},
        ).rowcount
    )  # fmt: skip
