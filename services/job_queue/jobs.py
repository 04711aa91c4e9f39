"""A planned job: sampling its shards, finalizing, and its end."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.leases import Lease, complete
from services.job_queue.outputs import fail_open_images
from services.job_queue.plan import Plan
from services.job_queue.states import JobState, WorkState

MAX_REASON = 500  # characters of an image's error in the reason of its job

# -- sampling ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplingJob:
    """A job as a worker needs it: its plan, and the manifest of its release."""

    plan: Plan
    manifest: Mapping[str, Any]


def find_sampling_job(connection: Connection, job_id: uuid.UUID) -> SamplingJob:
    """Return the job of a leased shard."""
    row = connection.execute(
        text("SELECT jobs.plan, releases.manifest FROM jobs JOIN releases ON releases.id = release_id "
             "WHERE jobs.id = :id"),
        {"id": job_id},
    ).one()  # fmt: skip
    return SamplingJob(**row._mapping)


def begin_sampling(connection: Connection, lease: Lease) -> float | None:
    """Record that sampling of the job starts. Returns for how many seconds it waited, or None if it started before."""
    waited = connection.scalar(
        text("UPDATE jobs SET state = 'running', started_at = coalesce(started_at, now()) "
             "WHERE id = :id AND state = 'planned' "
             "RETURNING extract(epoch FROM clock_timestamp() - greatest(created_at, run_after))"),
        {"id": lease.job_id},
    )  # fmt: skip
    return None if waited is None else float(waited)


def finish_shard(connection: Connection, lease: Lease, state: WorkState = WorkState.DONE) -> None:
    """End a shard whose images are all settled, or that is cancelled. The job's last one opens its finalizing.

    Raises LeaseLost.
    """
    complete(connection, lease, state)
    open_finalizing(connection, lease.job_id)


def fail_shard(connection: Connection, lease: Lease, error: str) -> None:
    """Fail the unsettled images of a shard that has ended, and let its job continue to finalizing.

    This checks no lease: the caller has ended it in the same transaction.
    """
    fail_open_images(connection, lease, error)
    open_finalizing(connection, lease.job_id)


# -- the end -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinalizingJob:
    """A job as its manifest describes it, with its release."""

    id: uuid.UUID
    revision: int
    request: Mapping[str, Any]
    plan: Plan
    total: int
    succeeded: int
    failed: int
    manifest_key: str | None  # of an earlier revision
    created_at: datetime
    started_at: datetime | None
    release_name: str
    release_version: int
    release_digest: str


def find_finalizing_job(connection: Connection, job_id: uuid.UUID) -> FinalizingJob:
    """Return the job whose finalizing is leased."""
    row = connection.execute(
        text("""
            SELECT jobs.id, revision, request, plan, total, succeeded, failed, manifest_key, jobs.created_at,
                   started_at, releases.name AS release_name, releases.version AS release_version,
                   releases.digest AS release_digest
            FROM jobs JOIN releases ON releases.id = jobs.release_id WHERE jobs.id = :id
        """),
        {"id": job_id},
    ).one()
    return FinalizingJob(**row._mapping)


def open_finalizing(connection: Connection, *job_ids: uuid.UUID) -> None:
    """Make the finalizing of each of these jobs claimable of which neither planning nor sampling is open."""
    values = {"ids": list(job_ids)}
    # The lock on the job's row keeps the last two shards from each seeing the other as open.
    connection.execute(text("SELECT FROM jobs WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE"), values)
    connection.execute(
        text("""
            WITH moved AS (
                UPDATE jobs SET state = 'finalizing'
                WHERE id = ANY(:ids) AND state IN ('planned', 'running') AND NOT EXISTS (
                    SELECT FROM work WHERE job_id = jobs.id AND kind IN ('plan', 'sample')
                        AND state IN ('ready', 'delayed', 'leased'))
                RETURNING id, queue, tenant, priority
            )
            INSERT INTO work (job_id, kind, queue, tenant, priority)
            SELECT id, 'finalize', queue, tenant, priority FROM moved
        """),
        values,
    )


def end_job(connection: Connection, lease: Lease, manifest_key: str) -> JobState:
    """End a job whose manifest is stored. Returns its state. Raises LeaseLost.

    The reason of a partial or failed job is its images' commonest error and how many images have it. Errors of input
    lines count as equal if they differ only in the number of the line.
    """
    complete(connection, lease)
    return JobState(
        connection.scalar(
            text(f"""
                WITH failures AS (
                    SELECT index, error, regexp_replace(error, '^line [0-9]+: ', '') AS cause
                    FROM outputs WHERE job_id = :id AND error IS NOT NULL
                ), commonest AS (
                    SELECT CASE WHEN min(error) = max(error) THEN min(error) ELSE cause END AS error,
                           count(*) AS images
                    FROM failures GROUP BY cause ORDER BY images DESC, min(index) LIMIT 1
                ), cut AS (
                    SELECT images, CASE WHEN length(error) > {MAX_REASON}
                        THEN left(error, {MAX_REASON - 3}) || '...' ELSE error END AS error FROM commonest
                )
                UPDATE jobs SET manifest_key = :key, finished_at = now(), state = CASE
                    WHEN succeeded = total THEN 'succeeded'
                    WHEN succeeded + failed < total THEN 'cancelled'
                    WHEN succeeded = 0 THEN 'failed'
                    ELSE 'partial' END,
                reason = CASE WHEN succeeded + failed < total THEN reason ELSE coalesce(reason,
                    (SELECT error || ' (' || images || ' of ' || total || ' images)' FROM cut)) END
                WHERE id = :id AND state = 'finalizing' RETURNING state
            """),
            {"id": lease.job_id, "key": manifest_key},
        )
    )


def fail_job(connection: Connection, job_id: uuid.UUID, reason: str) -> None:
    """End a job whose planning or finalizing has failed for good."""
    connection.execute(
        text("UPDATE jobs SET state = 'failed', reason = :reason, finished_at = now() "
             "WHERE id = :id AND state IN ('submitted', 'finalizing')"),
        {"id": job_id, "reason": reason},
    )  # fmt: skip
