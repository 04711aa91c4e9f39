"""Stopping jobs that their clients have cancelled or whose deadline has passed, many at a time.

A transaction ends up to MAX_SHARDS pieces of work, so its duration does not depend on the size of a job. Statements
return no time: a client may have stored one that Python cannot hold.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.job_queue import jobs
from services.job_queue.leases import Lease
from services.job_queue.states import WorkState

MAX_JOBS = 500  # jobs of one transaction
MAX_SHARDS = 500  # pieces of work of one transaction: up to 8,000 images
MAX_FAILURES = 3  # attempts to stop a job, each of which failed or ended the process, after which the job is set aside

CANCELLED = "cancel_requested_at IS NOT NULL"
REASON = f"""
    CASE WHEN {CANCELLED} THEN 'cancelled' ELSE
        'its deadline, '
        || coalesce(to_char(deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'), CAST(deadline AS text))
        || ', has passed' END
"""


@dataclass(frozen=True)
class StopRequest:
    """A job that must stop: its owner cancelled it, its deadline has passed, or it has ended without its work."""

    job_id: uuid.UUID
    cancelled: bool  # its open images are dropped; they fail otherwise
    reason: str  # for its owner


def find_stop_requests(connection: Connection, job_ids: Sequence[uuid.UUID]) -> list[StopRequest]:
    """Return which of these jobs must stop, also those whose cancel request no dispatcher has accepted yet."""
    rows = connection.execute(
        text(f"""
            SELECT id AS job_id, is_cancelled OR finished_at IS NOT NULL AS cancelled,
                CASE WHEN finished_at IS NOT NULL THEN 'the job has ended' WHEN is_cancelled THEN 'cancelled'
                    ELSE {REASON} END AS reason
            FROM jobs CROSS JOIN LATERAL (SELECT
                {CANCELLED} OR EXISTS (SELECT FROM cancel_requests WHERE job_id = jobs.id) AS is_cancelled) AS own
            WHERE id = ANY(:ids) AND (is_cancelled OR deadline < now() OR finished_at IS NOT NULL)
        """),
        {"ids": list(job_ids)},
    )
    return [StopRequest(**row._mapping) for row in rows]


def stop_shard(connection: Connection, lease: Lease, request: StopRequest) -> None:
    """End a leased shard of a job that must stop. Raises LeaseLost."""
    jobs.end_shard(connection, lease, WorkState.CANCELLED, None if request.cancelled else request.reason)


# -- cancel requests ---------------------------------------------------------------------------


def find_cancel_requests(connection: Connection, limit: int = 5_000) -> list[uuid.UUID]:
    """Return jobs whose clients have asked to cancel them. Tenants take turns."""
    query = text("""
        SELECT job_id FROM cancel_requests LEFT JOIN jobs ON jobs.id = job_id
        ORDER BY row_number() OVER (PARTITION BY tenant), job_id LIMIT :limit
    """)
    return list(connection.scalars(query, {"limit": limit}))


def accept_cancel_requests(connection: Connection, job_ids: Sequence[uuid.UUID]) -> int:
    """Record in these jobs that they are cancelled. Returns how many requests were accepted.

    A request for a job that has ended is dropped. A job that another transaction has locked keeps its request.
    """
    return connection.execute(
        text("""
            WITH requested AS (
                SELECT job_id, requested_at FROM cancel_requests WHERE job_id = ANY(:ids) FOR UPDATE SKIP LOCKED
            ), open AS (
                SELECT id FROM jobs WHERE id IN (SELECT job_id FROM requested) AND finished_at IS NULL
                FOR NO KEY UPDATE SKIP LOCKED
            ), recorded AS (
                UPDATE jobs SET cancel_requested_at = requested_at FROM requested, open
                WHERE jobs.id = open.id AND job_id = open.id RETURNING jobs.id
            )
            DELETE FROM cancel_requests USING requested WHERE cancel_requests.job_id = requested.job_id
                AND (requested.job_id IN (SELECT id FROM recorded)
                    OR NOT EXISTS (SELECT FROM jobs WHERE id = requested.job_id AND finished_at IS NULL))
        """),
        {"ids": list(job_ids)},
    ).rowcount


def drop_cancel_request(connection: Connection, job_id: uuid.UUID) -> None:
    """Forget a request that cannot be accepted."""
    connection.execute(text("DELETE FROM cancel_requests WHERE job_id = :id"), {"id": job_id})


# -- stopping ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoppingJob:
    """A job with something to stop, and how many attempts at it have begun and not been completed."""

    id: uuid.UUID
    failures: int


# Tenants take turns. A job that only waits for its leased shards is not found: their processes end them.
TO_STOP = text(f"""
    SELECT next.id, next.upkeep_failures AS failures FROM tenants CROSS JOIN LATERAL (
        (SELECT id, upkeep_failures FROM jobs WHERE tenant = tenants.name AND {CANCELLED} {{filter}}
         ORDER BY id LIMIT :limit)
        UNION
        (SELECT id, upkeep_failures FROM jobs WHERE tenant = tenants.name AND deadline < now() {{filter}}
         ORDER BY deadline LIMIT :limit)
    ) AS next
    ORDER BY next.upkeep_failures, row_number() OVER (PARTITION BY tenants.name), next.id LIMIT :limit
""".format(filter="""
        AND state IN ('submitted', 'planned', 'running') AND id <> ALL(CAST(:excluded AS uuid[])) AND upkeep_failures
            BETWEEN CASE WHEN :suspect THEN 1 ELSE 0 END AND CASE WHEN :suspect THEN :most ELSE 0 END
        AND (EXISTS (SELECT FROM work WHERE job_id = jobs.id AND state IN ('ready', 'delayed'))
            OR NOT EXISTS (SELECT FROM work WHERE job_id = jobs.id AND state = 'leased'))
"""))  # fmt: skip


def find_jobs_to_stop(
    connection: Connection, *, suspect: bool = False, excluded: Sequence[uuid.UUID] = (), limit: int = MAX_JOBS
) -> list[StoppingJob]:
    """Return up to `limit` jobs that must stop now.

    suspect: those whose last attempt was not completed, instead of those without such an attempt.
    """
    values = {"limit": limit, "suspect": suspect, "excluded": list(excluded), "most": 2 * MAX_FAILURES}
    return [StoppingJob(**row._mapping) for row in connection.execute(TO_STOP, values)]


def begin_attempt(connection: Connection, job_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Count an attempt to stop these jobs, and return those that no other transaction has locked.

    The caller commits before the attempt, so that an attempt which ends the process is counted as well.
    """
    return list(
        connection.scalars(
            text("""
                UPDATE jobs SET upkeep_failures = upkeep_failures + 1 WHERE id IN (
                    SELECT id FROM jobs WHERE id = ANY(:ids) AND finished_at IS NULL FOR NO KEY UPDATE SKIP LOCKED)
                RETURNING id
            """),
            {"ids": list(job_ids)},
        )
    )


def forgive_attempt(connection: Connection, job_ids: Sequence[uuid.UUID]) -> None:
    """Do not count an attempt that failed for a reason outside of these jobs."""
    connection.execute(
        text("UPDATE jobs SET upkeep_failures = greatest(upkeep_failures - 1, 0) WHERE id = ANY(:ids)"),
        {"ids": list(job_ids)},
    )


def stop_jobs(connection: Connection, job_ids: Sequence[uuid.UUID]) -> tuple[list[StopRequest], int]:
    """End unclaimed work of jobs that must stop, and the jobs themselves once nothing of them is open.

    One call ends at most MAX_SHARDS pieces of work, and at least one of each job. Workers stop claimed work within two
    seconds. Returns (those of the jobs that must stop, how many pieces of work were ended).
    """
    rows = connection.execute(
        text(f"""
            SELECT id AS job_id, {CANCELLED} AS cancelled, {REASON} AS reason FROM jobs
            WHERE id = ANY(:ids) AND state IN ('submitted', 'planned', 'running') AND ({CANCELLED} OR deadline < now())
            ORDER BY id FOR NO KEY UPDATE
        """),
        {"ids": list(job_ids)},
    ).all()
    requests = [StopRequest(**row._mapping) for row in rows]
    if not requests:
        return [], 0
    stopped = [request.job_id for request in requests]
    pieces = connection.scalar(END_WORK, {"ids": stopped, "each": max(1, MAX_SHARDS // len(stopped))})
    connection.execute(END_SUBMITTED, {"ids": stopped})
    jobs.open_finalizing(connection, *stopped)
    return requests, int(pieces or 0)


# This skips work that another process is claiming: waiting for it while it waits for the job would be a deadlock.
# Work that is not served is not charged: the tenant's next job has its turn that much earlier, and so has what waits
# behind it. The work of a paused job has no turn. The rows of turns are locked in the order of `take_turns`: another
# order could end in a deadlock.
END_WORK = text(f"""
    WITH stopping AS (
        SELECT id, {CANCELLED} AS cancelled, {REASON} AS reason, revision,
            coalesce(images_per_item, CAST(plan ->> 'images_per_item' AS integer), 1) AS per_item
        FROM jobs WHERE id = ANY(:ids)
    ), chosen AS (
        SELECT piece.* FROM stopping CROSS JOIN LATERAL (
            SELECT work.id, run_after IS DISTINCT FROM 'infinity' AS has_turn
            FROM work WHERE job_id = stopping.id AND state IN ('ready', 'delayed') LIMIT :each
            FOR UPDATE SKIP LOCKED) AS piece
    ), ended AS (
        UPDATE work SET state = 'cancelled', run_after = NULL FROM chosen WHERE work.id = chosen.id
        RETURNING job_id, tenant, queue, priority, kind, start, stop, cost, has_turn
    ), locked AS MATERIALIZED (
        SELECT turns.tenant, turns.queue, turns.priority, weight FROM turns JOIN tenants ON tenants.name = turns.tenant
        WHERE (turns.tenant, turns.queue) IN (SELECT tenant, queue FROM ended WHERE kind = 'sample')
        ORDER BY turns.tenant, turns.queue, turns.priority FOR NO KEY UPDATE OF turns
    ), refunds AS (
        SELECT locked.tenant, locked.queue, locked.priority, sum(cost) / weight AS own_and_higher,
            coalesce(sum(cost) FILTER (WHERE ended.priority > locked.priority), 0) / weight AS higher
        FROM locked JOIN ended ON (ended.tenant, ended.queue) = (locked.tenant, locked.queue)
            AND ended.priority >= locked.priority AND has_turn
        GROUP BY locked.tenant, locked.queue, locked.priority, weight
    ), refunded AS (
        UPDATE turns SET virtual_time = virtual_time - own_and_higher, deferred = deferred - higher FROM refunds
        WHERE (turns.tenant, turns.queue, turns.priority) = (refunds.tenant, refunds.queue, refunds.priority)
    ), failures AS (
        INSERT INTO outputs (job_id, index, item, error, revision)
        SELECT job_id, index, index / per_item, reason, revision
        FROM ended JOIN stopping ON stopping.id = job_id CROSS JOIN generate_series(start, stop - 1) AS index
        WHERE kind = 'sample' AND NOT cancelled
        ON CONFLICT DO NOTHING RETURNING job_id
    ), counted AS (
        SELECT job_id, count(*) AS images FROM failures GROUP BY job_id
    )
    UPDATE jobs SET upkeep_failures = 0, failed = failed + coalesce(images, 0)
    FROM stopping LEFT JOIN counted ON job_id = stopping.id WHERE jobs.id = stopping.id
    RETURNING (SELECT count(*) FROM ended)
""")

END_SUBMITTED = text(f"""
    UPDATE jobs SET state = CASE WHEN {CANCELLED} THEN 'cancelled' ELSE 'failed' END, reason = {REASON},
        finished_at = now()
    WHERE id = ANY(:ids) AND state = 'submitted' AND NOT EXISTS (
        SELECT FROM work WHERE job_id = jobs.id AND state IN ('ready', 'delayed', 'leased'))
""")
