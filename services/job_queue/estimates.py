"""What an estimate is made of: what a release has cost, what waits in a queue, and who serves it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.leases import Lease, complete

DAYS = 30  # of usage that count
ALIVE_S = 30  # after its last heartbeat


@dataclass(frozen=True)
class Cost:
    """What a release has cost: the device's seconds of an evaluation, and the bytes of an image.

    bytes: None if it has only made images of earlier stages of chains.
    """

    seconds: float
    bytes: float | None


@dataclass(frozen=True)
class Backlog:
    """Evaluations of a tenant that wait in a queue, and those among them that a new job of a priority comes after."""

    weight: float
    evaluations: int
    before: int


def read_cost(connection: Connection, release_id: int, queue: str) -> Cost | None:
    """Return what a release has cost in the last DAYS on the profiles that serve a queue, or None if that is unknown.

    Where none of its profiles is served now, all of them count.
    """
    row = connection.execute(
        text(f"""
            WITH counted AS (
                SELECT profile IN (SELECT profile FROM workers WHERE kind = 'worker' AND stopped_at IS NULL
                        AND heartbeat_at > now() - interval '{ALIVE_S} seconds'
                        AND (queues IS NULL OR :queue = ANY(queues))) AS is_served,
                    images, evaluations, gpu_seconds, bytes
                FROM usage_counts WHERE release_id = :release AND gpu_seconds > 0
                    AND day > CAST(now() AT TIME ZONE 'UTC' AS date) - {DAYS}
            )
            SELECT sum(gpu_seconds) / nullif(sum(evaluations), 0)::float8 AS seconds,
                CAST(sum(bytes) / nullif(sum(images), 0) AS float8) AS bytes
            FROM counted WHERE is_served IS TRUE OR NOT EXISTS (SELECT FROM counted WHERE is_served)
        """),
        {"release": release_id, "queue": queue},
    ).one()
    return None if row.seconds is None else Cost(row.seconds, row.bytes)


def read_backlogs(connection: Connection, queue: str, priority: int) -> dict[str, Backlog]:
    """Return what waits in a queue by tenant; that of paused jobs is left out. priority: of the job that would come."""
    rows = connection.execute(
        text("""
            SELECT tenant, weight, CAST(sum(cost) AS bigint) AS evaluations,
                CAST(coalesce(sum(cost) FILTER (WHERE priority >= :priority), 0) AS bigint) AS before
            FROM work JOIN tenants ON tenants.name = tenant
            WHERE queue = :queue AND kind = 'sample' AND state IN ('ready', 'leased', 'delayed')
                AND run_after IS DISTINCT FROM 'infinity'
            GROUP BY tenant, weight
        """),
        {"queue": queue, "priority": priority},
    )
    return {row.tenant: Backlog(row.weight, row.evaluations, row.before) for row in rows}


def count_workers(connection: Connection, queue: str) -> int:
    """Return how many workers serve a queue now; 0 if it is paused."""
    query = text(f"""
        SELECT count(*) FROM workers WHERE kind = 'worker' AND stopped_at IS NULL
            AND heartbeat_at > now() - interval '{ALIVE_S} seconds' AND (queues IS NULL OR :queue = ANY(queues))
            AND NOT (SELECT paused FROM queues WHERE name = :queue)
    """)
    return int(connection.execute(query, {"queue": queue}).scalar_one())


def end_dry_run(connection: Connection, lease: Lease, estimate: Mapping[str, Any]) -> None:
    """End a dry run, of which nothing was planned, with its estimate. Raises LeaseLost."""
    complete(connection, lease)
    connection.execute(
        text("UPDATE jobs SET state = 'succeeded', estimate = CAST(:estimate AS jsonb), finished_at = now() "
             "WHERE id = :id AND state = 'submitted'"),
        {"id": lease.job_id, "estimate": json.dumps(estimate)},
    )  # fmt: skip
