"""A job's way from planning to its manifest."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.leases import HEAD_START, Lease, complete, hold

TOGETHER = 1_000  # rows of one INSERT


@dataclass(frozen=True)
class Shard:
    """Images [start, stop) of a job and what they cost, in network evaluations.

    Of a job whose items are lines of an object also where these lie: bytes [byte_start, byte_stop) from line_start on.
    """

    start: int
    stop: int
    cost: int
    line_start: int | None = None
    byte_start: int | None = None
    byte_stop: int | None = None


@dataclass(frozen=True)
class OutputRecord:
    """One settled image: stored under `key`, or not, with the reason. A failed image may have no seed yet."""

    index: int
    item: int
    seed: int | None
    key: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    profile: str | None = None
    error: str | None = None


# -- planning ----------------------------------------------------------------------------------


def reject(connection: Connection, lease: Lease, reason: str) -> None:
    """The job cannot run; its author reads why in `reason`. Raises LeaseLost."""
    complete(connection, lease)
    connection.execute(
        text("UPDATE jobs SET state = 'rejected', reason = :reason, finished_at = now() "
             "WHERE id = :id AND state = 'submitted'"),
        {"id": lease.job_id, "reason": reason},
    )  # fmt: skip


# Start-time fair queueing (Goyal et al. 1996): a shard's turn is when its tenant's earlier work would be over if the
# tenant had its weight's share all along; who was idle starts at what is being served now. A priority is a head start.
TURN = text(f"""
    SELECT tenants.weight, greatest(tenants.virtual_time, coalesce(
        (SELECT max(rank + priority * {HEAD_START}) FROM work WHERE state = 'leased' AND kind = 'sample'),
        (SELECT min(next.rank + next.priority * {HEAD_START}) FROM queues CROSS JOIN LATERAL (
            SELECT rank, priority FROM work WHERE queue = queues.name AND state = 'ready' AND kind = 'sample'
            ORDER BY rank LIMIT 1) AS next),
        (SELECT max(virtual_time) FROM tenants))) AS start
    FROM tenants WHERE name = :tenant FOR NO KEY UPDATE
""")


def planned(connection: Connection, lease: Lease, *, plan: Mapping[str, Any], release_id: int, total: int) -> None:
    """The job is checked, and its shards were added in the same transaction. Raises LeaseLost."""
    complete(connection, lease)
    connection.execute(
        text("""
            UPDATE jobs SET state = 'planned', plan = CAST(:plan AS jsonb), release_id = :release, total = :total
            WHERE id = :id AND state = 'submitted'
        """),
        {"id": lease.job_id, "plan": json.dumps(plan), "release": release_id, "total": total},
    )


def add_shards(connection: Connection, job_id: uuid.UUID, pack_key: str, shards: Iterable[Shard]) -> int:
    """Make shards claimable, each in its turn. Returns how many."""
    job = connection.execute(text("SELECT tenant, queue, priority FROM jobs WHERE id = :id"), {"id": job_id}).one()
    turn = connection.execute(TURN, {"tenant": job.tenant}).one()
    clock, count = float(turn.start), 0
    rest = iter(shards)
    while group := list(islice(rest, TOGETHER)):
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


# -- sampling ----------------------------------------------------------------------------------


def begin(connection: Connection, lease: Lease) -> float | None:
    """Sampling of the job has begun. Returns for how many seconds it had to wait, or None if it had begun before."""
    waited = connection.scalar(
        text("UPDATE jobs SET state = 'running', started_at = coalesce(started_at, now()) "
             "WHERE id = :id AND state = 'planned' "
             "RETURNING extract(epoch FROM clock_timestamp() - greatest(created_at, run_after))"),
        {"id": lease.job_id},
    )  # fmt: skip
    return None if waited is None else float(waited)


def recorded(connection: Connection, job_id: uuid.UUID, start: int, stop: int) -> set[int]:
    """Which of the images [start, stop) are already settled, by an earlier holder or revision."""
    return set(
        connection.scalars(
            text("SELECT index FROM outputs WHERE job_id = :job AND index >= :start AND index < :stop"),
            {"job": job_id, "start": start, "stop": stop},
        )
    )


def record(connection: Connection, lease: Lease, outputs: Sequence[OutputRecord]) -> None:
    """Settle images: the first record of an index stays. Raises LeaseLost."""
    hold(connection, lease)
    settle(connection, lease.job_id, outputs)


def fail_images(connection: Connection, lease: Lease, error: str) -> None:
    """Settle the open images of a shard that has ended for good, and let its job go on to finalizing.

    No lease is asked for: whoever calls this has ended it in the same transaction.
    """
    settle_as_failed(connection, lease, error)
    open_finalize(connection, lease.job_id)


def settle_as_failed(connection: Connection, lease: Lease, error: str) -> None:
    """Settle the open images of a shard."""
    query = text("SELECT CAST(plan ->> 'images_per_item' AS integer) FROM jobs WHERE id = :id")
    per_item = int(connection.scalar(query, {"id": lease.job_id}) or 1)
    settled = recorded(connection, lease.job_id, lease.start, lease.stop)
    open_images = [index for index in range(lease.start, lease.stop) if index not in settled]
    records = [OutputRecord(index, index // per_item, None, error=error[:2000]) for index in open_images]
    settle(connection, lease.job_id, records)


def settle(connection: Connection, job_id: uuid.UUID, outputs: Sequence[OutputRecord]) -> None:
    """Record images in the job's present revision and count them; no lease is asked for."""
    if not outputs:
        return
    connection.execute(
        text("""
            WITH settled AS (
                INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile, error, revision)
                SELECT :job_id, new.index, new.item, new.seed, new.key, new.sha256, new.bytes, new.profile, new.error,
                       (SELECT revision FROM jobs WHERE id = :job_id)
                FROM jsonb_to_recordset(CAST(:outputs AS jsonb)) AS new (index integer, item integer, seed bigint,
                    key text, sha256 text, bytes bigint, profile text, error text)
                ON CONFLICT DO NOTHING RETURNING error
            )
            UPDATE jobs SET succeeded = succeeded + (SELECT count(*) FROM settled WHERE error IS NULL),
                            failed = failed + (SELECT count(*) FROM settled WHERE error IS NOT NULL)
            WHERE id = :job_id
        """),
        {"job_id": job_id, "outputs": json.dumps([asdict(output) for output in outputs])},
    )


def finish_shard(connection: Connection, lease: Lease, state: str = "done") -> None:
    """All images of a shard are settled, or it is cancelled; after the job's last one it is finalized.

    Raises LeaseLost.
    """
    complete(connection, lease, state)
    open_finalize(connection, lease.job_id)


# -- the end -----------------------------------------------------------------------------------


def open_finalize(connection: Connection, job_id: uuid.UUID) -> None:
    """Make the job's finalizing claimable once none of its sampling is open."""
    # Holding the job's row, the last two shards cannot each believe that the other is still open.
    connection.execute(text("SELECT FROM jobs WHERE id = :id FOR NO KEY UPDATE"), {"id": job_id})
    connection.execute(
        text("""
            WITH moved AS (
                UPDATE jobs SET state = 'finalizing'
                WHERE id = :id AND state IN ('planned', 'running') AND NOT EXISTS (
                    SELECT FROM work WHERE job_id = :id AND kind = 'sample' AND state IN ('ready', 'delayed', 'leased'))
                RETURNING id, queue, tenant, priority
            )
            INSERT INTO work (job_id, kind, queue, tenant, priority)
            SELECT id, 'finalize', queue, tenant, priority FROM moved
        """),
        {"id": job_id},
    )


def finalized(connection: Connection, lease: Lease, manifest_key: str) -> str:
    """The manifest is stored: the job ends. Returns its state. Raises LeaseLost."""
    complete(connection, lease)
    return str(
        connection.scalar(
            text("""
                UPDATE jobs SET manifest_key = :key, finished_at = now(), state = CASE
                    WHEN succeeded = total THEN 'succeeded'
                    WHEN succeeded + failed < total THEN 'cancelled'
                    WHEN succeeded = 0 THEN 'failed'
                    ELSE 'partial' END
                WHERE id = :id AND state = 'finalizing' RETURNING state
            """),
            {"id": lease.job_id, "key": manifest_key},
        )
    )


def fail_job(connection: Connection, job_id: uuid.UUID, reason: str) -> None:
    """Planning or finalizing failed for good."""
    connection.execute(
        text("UPDATE jobs SET state = 'failed', reason = :reason, finished_at = now() "
             "WHERE id = :id AND state IN ('submitted', 'finalizing')"),
        {"id": job_id, "reason": reason},
    )  # fmt: skip
