"""The figures behind an estimate: past costs of a release, and the backlog and workers of a queue."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.leases import Lease, complete

DAYS = 30  # of usage that count
ALIVE_S = 30  # after its last heartbeat
LATEST_JOBS, MEASURED_JOBS = 5_000, 50  # among which jobs of a release are sought, and how many of these are measured
FULL_JOB, MEASURED_IMAGES = 16, 64  # images of a job that is measured, and how many of them


@dataclass(frozen=True)
class Cost:
    """What a release has cost: the device's seconds of an evaluation, and those of an image besides, such as decoding.

    bytes: of an image; None if it has only made images of earlier stages of chains. resized_seconds: those of an
    evaluation of images of other sizes, decoding included; None if it has made none.
    """

    seconds: float
    image_seconds: float
    bytes: float | None
    resized_seconds: float | None = None


@dataclass(frozen=True)
class Backlog:
    """A tenant's work that waits in a queue, in seconds of a worker, and that of it before a new job of a priority."""

    weight: float
    seconds: float
    before: float


def read_cost(connection: Connection, release_id: int, queue: str, decoder: str = "full") -> Cost | None:
    """Return what a release has cost in the last DAYS, or None if that is unknown.

    Images count that were made with this decoder on the profiles that serve a queue now. Where there are none, those
    with the other decoder count, and where no profile is served now, all. What an image takes besides its evaluations
    is known if large jobs have had images of different numbers of evaluations, by the line of least squares. Images of
    other sizes have profiles of their own on the same machines: with fewer rows, and not compiled.
    """
    counted = connection.execute(USED, {"release": release_id, "queue": queue, "decoder": decoder}).one()
    if counted.seconds is None:
        return None
    line = connection.execute(MEASURED, {"release": release_id, "profiles": counted.profiles}).one()
    resized = connection.scalar(RESIZED, {"release": release_id, "queue": queue})
    if line.slope is None:
        return Cost(counted.seconds, 0.0, counted.bytes, resized)
    seconds = min(max(line.slope, 0.0), line.seconds / line.evaluations)  # neither part can be negative
    return Cost(seconds, line.seconds - seconds * line.evaluations, counted.bytes, resized)


SERVING = f"""kind = 'worker' AND stopped_at IS NULL AND heartbeat_at > now() - interval '{ALIVE_S} seconds'
            AND (queues IS NULL OR :queue = ANY(queues))"""
SERVED = f"served AS (SELECT regexp_replace(profile, '#.*$', '') AS profile FROM workers WHERE {SERVING})"
# The profile of an image is that of its worker, but for the name of a light decoder and the hash of both.
IS_SERVED = "regexp_replace(profile, '(/light-decoder)?(#.*)?$', '') IN (SELECT profile FROM served)"
USED = text(f"""
    WITH {SERVED}, counted AS (
        SELECT *, 2 * ({IS_SERVED})::integer
            + ((profile LIKE '%/light-decoder#%') = (:decoder = 'light'))::integer AS nearness
        FROM usage_counts WHERE release_id = :release AND gpu_seconds > 0
            AND day > CAST(now() AT TIME ZONE 'UTC' AS date) - {DAYS}
    )
    SELECT sum(gpu_seconds) / nullif(sum(evaluations), 0)::float8 AS seconds,
        CAST(sum(bytes) / nullif(sum(images), 0) AS float8) AS bytes, array_agg(DISTINCT profile) AS profiles
    FROM counted WHERE nearness = (SELECT max(nearness) FROM counted)
""")

MACHINE = "regexp_replace(profile, '/(eager|compiled[^/]*)/[0-9+]+rows.*$', '')"
RESIZED = text(f"""
    WITH {SERVED} SELECT sum(gpu_seconds) / nullif(sum(evaluations), 0)::float8 FROM usage_counts
    WHERE release_id = :release AND gpu_seconds > 0 AND day > CAST(now() AT TIME ZONE 'UTC' AS date) - {DAYS}
        AND NOT {IS_SERVED} AND {MACHINE} IN (SELECT {MACHINE} FROM served)
""")

# In the first images of the latest jobs that have filled the rows: others pay for rows that are idle.
MEASURED = text(f"""
    SELECT regr_slope(gpu_seconds, evaluations) AS slope, avg(gpu_seconds) AS seconds,
        CAST(avg(evaluations) AS float8) AS evaluations
    FROM (
        SELECT latest.id, stage, coalesce(is_last, true) AS is_last
        FROM (SELECT id, release_id, total FROM jobs ORDER BY id DESC LIMIT {LATEST_JOBS}) AS latest
        LEFT JOIN job_stages ON job_id = latest.id
        WHERE coalesce(job_stages.release_id, latest.release_id) = :release AND total >= {FULL_JOB}
        ORDER BY latest.id DESC LIMIT {MEASURED_JOBS}
    ) AS part CROSS JOIN LATERAL (
        (SELECT gpu_seconds, evaluations, profile FROM outputs
         WHERE part.is_last AND job_id = part.id AND gpu_seconds > 0 ORDER BY index LIMIT {MEASURED_IMAGES})
        UNION ALL
        (SELECT gpu_seconds, evaluations, profile FROM stage_outputs AS made
         WHERE NOT part.is_last AND job_id = part.id AND made.stage = part.stage AND gpu_seconds > 0
         ORDER BY index LIMIT {MEASURED_IMAGES})
    ) AS image WHERE profile = ANY(:profiles)
""")


def read_backlogs(connection: Connection, queue: str, priority: int, usual: float) -> dict[str, Backlog]:
    """Return what waits in a queue by tenant; that of paused jobs is left out.

    priority: of the job that would come. usual: seconds of an evaluation of a release that has made no images.
    """
    rows = connection.execute(
        text(f"""
            WITH {SERVED}, waiting AS (
                SELECT work.tenant, jobs.release_id, sum(cost) AS evaluations,
                    coalesce(sum(cost) FILTER (WHERE work.priority >= :priority), 0) AS before
                FROM work JOIN jobs ON jobs.id = work.job_id
                WHERE work.queue = :queue AND kind = 'sample' AND work.state IN ('ready', 'leased', 'delayed')
                    AND work.run_after IS DISTINCT FROM 'infinity'
                GROUP BY work.tenant, jobs.release_id
            ), counted AS (
                SELECT release_id, {IS_SERVED} AS is_served, sum(gpu_seconds) AS seconds,
                    nullif(sum(evaluations), 0)::float8 AS evaluations
                FROM usage_counts WHERE release_id IN (SELECT release_id FROM waiting) AND gpu_seconds > 0
                    AND day > CAST(now() AT TIME ZONE 'UTC' AS date) - {DAYS}
                GROUP BY release_id, is_served
            ), used AS (
                SELECT DISTINCT ON (release_id) release_id, seconds / evaluations AS seconds FROM counted
                ORDER BY release_id, is_served DESC
            )
            SELECT tenant, weight, CAST(sum(evaluations * coalesce(seconds, :usual)) AS float8) AS seconds,
                CAST(sum(before * coalesce(seconds, :usual)) AS float8) AS before
            FROM waiting JOIN tenants ON tenants.name = tenant LEFT JOIN used USING (release_id)
            GROUP BY tenant, weight
        """),
        {"queue": queue, "priority": priority, "usual": usual},
    )
    return {row.tenant: Backlog(row.weight, row.seconds, row.before) for row in rows}


def read_workers(connection: Connection, queue: str) -> list[int]:
    """Return the rows of the network of each worker that serves a queue now, 1 if unknown; none if it is paused."""
    query = text(f"""
        SELECT coalesce(CAST(substring(profile FROM '/([0-9]+)(?:[+][0-9]+)*rows') AS integer), 1) FROM workers
        WHERE {SERVING} AND NOT (SELECT paused FROM queues WHERE name = :queue)
    """)
    return list(connection.scalars(query, {"queue": queue}))


def end_dry_run(connection: Connection, lease: Lease, estimate: Mapping[str, Any]) -> None:
    """End a dry run, of which nothing was planned, with its estimate. Raises LeaseLost."""
    complete(connection, lease)
    connection.execute(
        text("UPDATE jobs SET state = 'succeeded', estimate = CAST(:estimate AS jsonb), finished_at = now() "
             "WHERE id = :id AND state = 'submitted'"),
        {"id": lease.job_id, "estimate": json.dumps(estimate)},
    )  # fmt: skip
