"""A planned job: sampling its shards, finalizing, and its end."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import NoResultFound

from services.job_queue import leases
from services.job_queue.leases import Lease, complete, lease_lost, storable
from services.job_queue.outputs import fail_images
from services.job_queue.plan import Plan
from services.job_queue.states import JobState, WorkState

# -- sampling ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplingJob:
    """A job as a worker needs it for a shard: its plan with the items of that shard, and its release's manifest.

    settled: indices of the shard's images that are settled, in its stage if the job is a chain. inputs: key and sha256
    of the images of the stage before, by index. waited: for how many seconds the job waited, if this shard is its first
    one.
    """

    plan: Plan
    manifest: Mapping[str, Any]
    revision: int
    settled: Sequence[int]
    inputs: Mapping[str, Sequence[str]]
    waited: float | None


# A shard needs few of the thousands of items that a plan may have. A plan that is damaged is returned as it is, so that
# reading it fails the shard. The start is recorded by the first settled image as well: so this need not wait for the
# disk, and records nothing while another transaction holds the job's row. Every number is above 0: with this condition
# Postgres expects a third of the shards, and keeps its plan of a prepared statement instead of making one each time,
# which takes longer than the statement.
BEGIN_SHARDS = """
    WITH given AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:starts AS integer[]), CAST(:stops AS integer[]),
            CAST(:stages AS smallint[])) WITH ORDINALITY AS shard (job_id, start, stop, stage, number)
        WHERE number > 0
    ), begun AS (
        UPDATE jobs SET state = 'running', started_at = coalesce(started_at, now())
        WHERE id IN (SELECT id FROM jobs WHERE id IN (SELECT job_id FROM given) AND state = 'planned'
                     FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING id, CAST(extract(epoch FROM clock_timestamp() - greatest(created_at, run_after)) AS float8) AS waited,
            set_config('synchronous_commit', 'off', true)
    )
    SELECT CASE WHEN own.first IS NULL THEN plan ELSE plan - 'items' || jsonb_build_object('first_item', own.first,
            'items', jsonb_path_query_array(plan, '$.items[$first to $last]', to_jsonb(own))) END AS plan,
        releases.manifest, jobs.revision,
        ARRAY(SELECT index FROM outputs WHERE job_id = jobs.id AND index >= given.start AND index < given.stop{settled})
            AS settled,
        {inputs} AS inputs,
        CASE WHEN row_number() OVER (PARTITION BY jobs.id ORDER BY number) = 1 THEN begun.waited END AS waited
    FROM given JOIN jobs ON jobs.id = given.job_id {release}
    LEFT JOIN begun ON begun.id = jobs.id
    CROSS JOIN LATERAL (SELECT
        given.start / jobs.images_per_item AS first, (given.stop - 1) / jobs.images_per_item AS last
        WHERE plan ? 'items' UNION ALL SELECT NULL, NULL LIMIT 1) AS own
    ORDER BY number
"""
BEGIN_SHARDS_OF_JOBS = text(
    BEGIN_SHARDS.format(
        settled="", inputs="CAST('{}' AS jsonb)", release="JOIN releases ON releases.id = jobs.release_id"
    )
)
# This one takes a quarter more processor time, so it is for claims with a shard of a chain alone.
BEGIN_SHARDS_OF_CHAINS = text(
    BEGIN_SHARDS.format(
        settled="""
              UNION ALL SELECT index FROM stage_outputs WHERE given.stage IS NOT NULL AND job_id = jobs.id
                  AND index >= given.start AND index < given.stop AND stage_outputs.stage = given.stage""",
        inputs="""CASE WHEN given.stage > 0 THEN coalesce((
            SELECT jsonb_object_agg(index, jsonb_build_array(key, sha256)) FROM stage_outputs
            WHERE job_id = jobs.id AND index >= given.start AND index < given.stop
                AND stage_outputs.stage = given.stage - 1), '{}') ELSE '{}' END""",
        release="""LEFT JOIN job_stages
            ON given.stage > 0 AND job_stages.job_id = jobs.id AND job_stages.stage = given.stage
        JOIN releases ON releases.id = coalesce(job_stages.release_id, jobs.release_id)""",
    )
)


def begin_shards(connection: Connection, leases: Sequence[Lease]) -> list[SamplingJob]:
    """Record that sampling of the jobs of leased shards starts, and return what each shard needs of its job.

    Raises NoResultFound if one of the jobs, or its release, does not exist.
    """
    values = {
        "ids": [lease.job_id for lease in leases],
        "starts": [lease.start for lease in leases],
        "stops": [lease.stop for lease in leases],
        "stages": [lease.stage for lease in leases],
    }
    of_chains = any(lease.stage is not None for lease in leases)
    statement = BEGIN_SHARDS_OF_CHAINS if of_chains else BEGIN_SHARDS_OF_JOBS
    found = [SamplingJob(**row._mapping) for row in connection.execute(statement, values)]
    if len(found) < len(leases):
        raise NoResultFound("a shard has no job, or its job has no release")
    return found


def end_shard(connection: Connection, lease: Lease, state: WorkState, error: str | None) -> None:
    """End a leased shard as failed or cancelled, in one statement. Raises LeaseLost.

    Its missing images fail with `error`; without an error they stay missing. A job's last shard opens its finalizing.
    """
    values = {"id": lease.id, "token": lease.token, "state": state, "error": storable(error) if error else None}
    if not connection.scalar(text("SELECT end_shard(:id, :token, :state, :error)"), values):
        raise lease_lost(lease)


def fail_shard_attempt(connection: Connection, lease: Lease, error: str) -> None:
    """Count a failed attempt of a shard, in one statement. After the last one its missing images fail.

    Raises LeaseLost.
    """
    if leases.has_attempts(lease):
        leases.fail_attempt(connection, lease, error)
    else:
        end_shard(connection, lease, WorkState.FAILED, error)


def lose_shard(connection: Connection, lease: Lease, error: str) -> None:
    """Record that a step with a shard's images failed, which counts as the loss of the process. Raises LeaseLost."""
    values = {
        "id": lease.id,
        "token": lease.token,
        "error": storable(error),
        "attempts": leases.MAX_ATTEMPTS,
        "losses": leases.MAX_LOSSES,
    }
    if not connection.scalar(text("SELECT lose_shard(:id, :token, :error, :attempts, :losses)"), values):
        raise lease_lost(lease)


def fail_shard(connection: Connection, lease: Lease, error: str) -> None:
    """Fail the unsettled images of a shard that has ended, and let its job continue to finalizing.

    This checks no lease: the caller has ended it in the same transaction.
    """
    fail_images(connection, lease.job_id, lease.start, lease.stop, error)
    open_finalizing(connection, lease.job_id)


# -- the end -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinalizingJob:
    """A job as its manifest describes it, with its release. `request` and `plan` are JSON."""

    id: uuid.UUID
    revision: int
    request: str
    plan: str
    total: int
    succeeded: int
    failed: int
    reason: str | None
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
            SELECT jobs.id, revision, CAST(request AS text) AS request, CAST(plan AS text) AS plan, total, succeeded,
                   failed, reason, manifest_key, jobs.created_at, started_at, releases.name AS release_name,
                   releases.version AS release_version, releases.digest AS release_digest
            FROM jobs JOIN releases ON releases.id = jobs.release_id WHERE jobs.id = :id
        """),
        {"id": job_id},
    ).one()
    return FinalizingJob(**row._mapping)


def open_finalizing(connection: Connection, *job_ids: uuid.UUID) -> None:
    """Make the finalizing of each of these jobs claimable of which neither planning nor sampling is open."""
    connection.execute(text("SELECT open_finalizing(:ids)"), {"ids": list(job_ids)})


def end_job(connection: Connection, lease: Lease, manifest_key: str, reason: str | None = None) -> JobState:
    """End a job whose manifest is stored. Returns its state. Raises LeaseLost.

    reason: why images failed; a job that has a reason keeps it.
    """
    complete(connection, lease)
    return JobState(
        connection.scalar(
            text("""
                UPDATE jobs SET manifest_key = :key, finished_at = now(), state = CASE
                    WHEN succeeded = total THEN 'succeeded'
                    WHEN succeeded + failed < total THEN 'cancelled'
                    WHEN succeeded = 0 THEN 'failed'
                    ELSE 'partial' END,
                reason = CASE WHEN succeeded + failed < total THEN reason ELSE coalesce(reason, :reason) END
                WHERE id = :id AND state = 'finalizing' RETURNING state
            """),
            {"id": lease.job_id, "key": manifest_key, "reason": reason},
        )
    )


def fail_job(connection: Connection, job_id: uuid.UUID, reason: str) -> None:
    """Give up a job whose planning or finalizing has failed for good.

    If part of it is planned already, that part is sampled, and finalizing records the other images as failed.
    """
    connection.execute(
        text("""
            UPDATE jobs SET reason = :reason,
                state = CASE WHEN state IN ('submitted', 'finalizing') THEN 'failed' ELSE state END,
                finished_at = CASE WHEN state IN ('submitted', 'finalizing') THEN now() END
            WHERE id = :id AND state IN ('submitted', 'planned', 'running', 'finalizing')
        """),
        {"id": job_id, "reason": reason},
    )
    open_finalizing(connection, job_id)
