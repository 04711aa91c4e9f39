"""What planning reads and writes: a submitted job, its shards and their turns, or its rejection."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice

from sqlalchemy import Connection, text

from services.job_queue.leases import Lease, complete
from services.job_queue.plan import Plan

HEAD_START = 3_000  # network evaluations that a priority is worth: about 50 guided images of 30 steps
INSERT_ROWS = 1_000  # rows of one INSERT


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


# Start-time fair queueing (Goyal et al. 1996): a shard's rank is the virtual time at which its tenant's earlier work
# would be over if the tenant had had its weight's share all along. A tenant that was idle starts at what is being
# served now, so it has saved nothing up. A priority is a head start.
TURN = text(f"""
    SELECT tenants.weight, greatest(tenants.virtual_time, coalesce(
        (SELECT max(rank + priority * {HEAD_START}) FROM work WHERE state = 'leased' AND kind = 'sample'),
        (SELECT min(next.rank + next.priority * {HEAD_START}) FROM queues CROSS JOIN LATERAL (
            SELECT rank, priority FROM work WHERE queue = queues.name AND state = 'ready' AND kind = 'sample'
            ORDER BY rank LIMIT 1) AS next),
        (SELECT max(virtual_time) FROM tenants))) AS start
    FROM tenants WHERE name = :tenant FOR NO KEY UPDATE
""")


def add_shards(connection: Connection, job_id: uuid.UUID, pack_key: str, shards: Iterable[Shard]) -> int:
    """Make shards claimable, each in its turn, and charge them to the tenant. Returns how many.

    pack_key: the digest of their release.
    """
    job = connection.execute(text("SELECT tenant, queue, priority FROM jobs WHERE id = :id"), {"id": job_id}).one()
    turn = connection.execute(TURN, {"tenant": job.tenant}).one()
    clock, count = float(turn.start), 0
    rest = iter(shards)
    while group := list(islice(rest, INSERT_ROWS)):
        rows = []
        for shard in group:
            rank = clock - job.priority * HEAD_START
            rows.append({"job_id": job_id, "pack_key": pack_key, "rank": rank, **job._mapping, **asdict(shard)})
            clock += shard.cost / turn.weight
        connection.execute(
            text("""
                INSERT INTO work (job_id, kind, start, stop, queue, tenant, pack_key, priority, rank, cost,
                                  line_start, byte_start, byte_stop)
                VALUES (:job_id, 'sample', :start, :stop, :queue, :tenant, :pack_key, :priority, :rank, :cost,
                        :line_start, :byte_start, :byte_stop)
            """),
            rows,
        )
        count += len(rows)
    connection.execute(
        text("UPDATE tenants SET virtual_time = :clock WHERE name = :tenant"), {"clock": clock, "tenant": job.tenant}
    )
    return count
