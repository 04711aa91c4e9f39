"""What planning reads and writes: a submitted job, its plan and shards batch by batch, or its rejection."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from psycopg.errors import CheckViolation
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from services.database.messages import describe_refusal
from services.job_queue import jobs
from services.job_queue.leases import Lease, complete, lease_lost, storable
from services.job_queue.plan import Plan
from services.job_queue.states import JobState, WorkState
from training.errors import DarkroomError


@dataclass(frozen=True)
class SubmittedJob:
    """A job to plan and the limits of its tenant. weight: of the tenant.

    plan, release_id, total: recorded by the first batch of images.
    planned_to: how many images were planned in this revision before planning was interrupted.
    """

    id: uuid.UUID
    tenant: str
    weight: float
    queue: str
    priority: int
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
class Shard:
    """Images [start, stop) of a job and their cost in network evaluations.

    If the job's items are lines of an object, its lines start at number `line_start` and are the bytes
    [byte_start, byte_stop).
    """

    start: int
    stop: int
    cost: int
    line_start: int | None = None
    byte_start: int | None = None
    byte_stop: int | None = None


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
            SELECT jobs.id, jobs.tenant, tenants.weight, jobs.queue, jobs.priority, jobs.model,
                   CAST(jobs.request AS text) AS request, jobs.plan, jobs.release_id, jobs.total, jobs.revision,
                   jobs.planned_to, tenants.permitted_releases, tenants.write_prefixes, tenants.read_prefixes,
                   tenants.max_job_images
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


class TooManyRows(DarkroomError):
    """With this job, its tenant would have stored more bytes than it may in a day."""


class JobMustStop(Exception):
    """The job was cancelled, its deadline has passed or it has ended, so no more of it is planned."""


def record_batch(
    connection: Connection,
    lease: Lease,
    batch: Batch,
    *,
    release_id: int,
    digest: str,
    per_item: int,
    total: int,
    new_plan: Plan | None = None,
) -> None:
    """Make a batch's shards claimable and fail the images of its other items, in one statement.

    release_id, digest: of the release. new_plan: the job's plan, with the first batch of its first revision. total:
    images of the job. The last batch ends planning, and opens finalizing if everything that was planned has ended.
    Raises LeaseLost, JobMustStop, and with the first batch of a job TooManyRows.
    """
    errors = [{"item": item, "error": storable(error)} for item, error in batch.errors.items()]
    shards = [asdict(shard) for shard in batch.shards]
    values = {
        "planning": lease.id,
        "token": lease.token,
        "plan": None if new_plan is None else json.dumps(new_plan),
        "release": release_id,
        "digest": digest,
        "total": total,
        "stop": batch.stop,
        "per_item": per_item,
        "is_last": batch.stop == total,
        "errors": json.dumps(errors),
    }
    columns = {f"shard_{name}": [shard[name] for shard in shards] for name in Shard.__dataclass_fields__}
    try:
        outcome = connection.scalar(RECORD_BATCH, {**values, **columns})
    except IntegrityError as error:
        if not isinstance(error.orig, CheckViolation) or error.orig.diag.constraint_name:
            raise
        raise TooManyRows(describe_refusal(error)) from None
    match outcome:
        case "lost":
            raise lease_lost(lease)
        case "stopping":
            raise JobMustStop


RECORD_BATCH = text("""
    SELECT plan_batch(:planning, :token, CAST(:plan AS jsonb), :release, :digest, :total, :stop, :per_item, :is_last,
        CAST(:errors AS jsonb), CAST(:shard_start AS integer[]), CAST(:shard_stop AS integer[]),
        CAST(:shard_cost AS bigint[]), CAST(:shard_line_start AS integer[]), CAST(:shard_byte_start AS bigint[]),
        CAST(:shard_byte_stop AS bigint[]))
""")
