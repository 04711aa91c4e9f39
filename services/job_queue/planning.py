"""What planning reads and writes: a submitted job, its plan and shards batch by batch, or its rejection."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.job_queue import jobs, outputs
from services.job_queue.leases import Lease, LeaseLost, complete
from services.job_queue.plan import Plan
from services.job_queue.states import JobState, WorkState
from services.job_queue.turns import Shard, add_shards


@dataclass(frozen=True)
class SubmittedJob:
    """A job to plan and the limits of its tenant.

    plan, release_id, total: recorded by the first batch of images.
    planned_to: how many images were planned in this revision before planning was interrupted.
    """

    model: str
    request: str  # JSON
    plan: Plan | None
    release_id: int | None
    total: int
    revision: int
    planned_to: int
    permitted_releases: list[str]
    write_prefixes: list[str]
    read_prefixes: list[str]
    max_job_images: int


@dataclass(frozen=True)
class Batch:
    """Images [start, stop) of a job, which are planned in one transaction.

    errors: why an item cannot be used, by its number; all of its images fail.
    """

    start: int
    stop: int
    shards: Sequence[Shard]
    errors: Mapping[int, str]


def find_submitted_job(connection: Connection, job_id: uuid.UUID) -> SubmittedJob:
    """Return the job to plan, which exists as long as its planning is leased."""
    row = connection.execute(
        text("""
            SELECT jobs.model, CAST(jobs.request AS text) AS request, jobs.plan, jobs.release_id, jobs.total,
                   jobs.revision, jobs.planned_to, tenants.permitted_releases, tenants.write_prefixes,
                   tenants.read_prefixes, tenants.max_job_images
            FROM jobs JOIN tenants ON tenants.name = jobs.tenant WHERE jobs.id = :id
        """),
        {"id": job_id},
    ).one()
    return SubmittedJob(**row._mapping)


def reject_job(connection: Connection, lease: Lease, reason: str) -> None:
    """End a job that cannot run; `reason` tells its author why. Raises LeaseLost."""
    complete(connection, lease)
    _end_unplanned(connection, lease, JobState.REJECTED, reason)


def stop_planning(connection: Connection, lease: Lease, state: JobState, reason: str) -> None:
    """Plan no more of a job that must stop. A job of which nothing is planned ends in `state`. Raises LeaseLost."""
    complete(connection, lease, WorkState.CANCELLED)
    _end_unplanned(connection, lease, state, reason)
    jobs.open_finalizing(connection, lease.job_id)


def _end_unplanned(connection: Connection, lease: Lease, state: JobState, reason: str) -> None:
    connection.execute(
        text("UPDATE jobs SET state = :state, reason = :reason, finished_at = now() "
             "WHERE id = :id AND state = 'submitted'"),
        {"id": lease.job_id, "state": state, "reason": reason},
    )  # fmt: skip


def record_plan(connection: Connection, lease: Lease, *, plan: Plan, release_id: int, total: int) -> None:
    """Record the plan of a job in its first revision, in the transaction of its first batch."""
    connection.execute(
        text("UPDATE jobs SET plan = CAST(:plan AS jsonb), release_id = :release, total = :total "
             "WHERE id = :id AND state = 'submitted'"),
        {"id": lease.job_id, "plan": json.dumps(plan), "release": release_id, "total": total},
    )  # fmt: skip


def record_batch(
    connection: Connection, lease: Lease, batch: Batch, *, release_digest: str, per_item: int, is_last: bool
) -> None:
    """Make a batch's shards claimable and fail the images of its other items. The caller holds the lease.

    The last batch ends planning, and opens finalizing if everything that was planned has ended. Raises LeaseLost.
    """
    if is_last:
        complete(connection, lease)
    revision = connection.scalar(
        text("""
            UPDATE jobs SET planned_to = :stop, state = CASE state WHEN 'submitted' THEN 'planned' ELSE state END
            WHERE id = :id AND state IN ('submitted', 'planned', 'running') RETURNING revision
        """),
        {"id": lease.job_id, "stop": batch.stop},
    )
    if revision is None:
        raise LeaseLost(f"job {lease.job_id} has ended, so no more of it is planned")
    outputs.fail_items(connection, lease.job_id, batch.errors, per_item)
    shards = batch.shards if revision == 1 else outputs.unsettled_ranges(connection, lease.job_id, batch.shards)
    if shards:
        add_shards(connection, lease.job_id, release_digest, shards)
    elif is_last:
        jobs.open_finalizing(connection, lease.job_id)
