"""Claims: a process leases work whose turn it is.

SKIP LOCKED lets claimers pass each other. `kind`, `suspect` and `isolated` are part of each statement's text and not
parameters, because they select the partial index whose order is the order of the claim.
"""

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, text

from services.job_queue.leases import COLUMNS, DURATION, Lease, hold
from services.job_queue.queues import queue_names

QUANTUM = 20_000  # network evaluations by which the loaded release may run ahead of the others' turn

# What every claim writes. A token comes from a sequence, so no two leases ever have the same one.
LEASED = f"state = 'leased', token = nextval('work_token'), owner = :worker, lease_until = now() + {DURATION}"

# Shards of the queues, the lowest rank first. Each queue's first shards come from its own part of the index; looking
# at the queues one by one keeps the scan as short as the claim, where `queue = ANY(...)` would sort all ready work.
CLAIM_SAMPLING = text(f"""
    WITH chosen AS (
        SELECT next.id FROM queues CROSS JOIN LATERAL (
            SELECT work.id, work.rank FROM work
            WHERE work.queue = queues.name AND work.state = 'ready' AND work.kind = 'sample'
            ORDER BY work.rank, work.id LIMIT :count FOR UPDATE OF work SKIP LOCKED
        ) AS next
        WHERE queues.name = ANY(:queues) AND NOT queues.paused
        ORDER BY next.rank, next.id LIMIT :count
    )
    UPDATE work SET {LEASED}, isolated = false
    FROM chosen WHERE work.id = chosen.id
    RETURNING {COLUMNS}
""")

# The same without the releases that the process cannot load. It reads over their shards.
CLAIM_SAMPLING_WITHOUT = text(
    CLAIM_SAMPLING.text.replace(
        "work.kind = 'sample'", "work.kind = 'sample' AND work.pack_key <> ALL(CAST(:without AS text[]))"
    )
)

# Shards of the release that the process has loaded: loading another one costs seconds. The quantum bounds how far they
# may run ahead of the lowest rank that waits in the same queues, so no other release starves.
CLAIM_SAMPLING_OF_RELEASE = text(f"""
    WITH chosen AS (
        SELECT next.id FROM queues CROSS JOIN LATERAL (
            SELECT work.id, work.rank FROM work
            WHERE work.queue = queues.name AND work.state = 'ready' AND work.kind = 'sample'
              AND work.pack_key = :release AND work.rank <= {QUANTUM} + (
                SELECT min(first.rank) FROM queues CROSS JOIN LATERAL (
                    SELECT work.rank FROM work
                    WHERE work.queue = queues.name AND work.state = 'ready' AND work.kind = 'sample'
                    ORDER BY work.rank LIMIT 1
                ) AS first
                WHERE queues.name = ANY(:queues) AND NOT queues.paused)
            ORDER BY work.rank, work.id LIMIT :count FOR UPDATE OF work SKIP LOCKED
        ) AS next
        WHERE queues.name = ANY(:queues) AND NOT queues.paused
        ORDER BY next.rank, next.id LIMIT :count
    )
    UPDATE work SET {LEASED}, isolated = false
    FROM chosen WHERE work.id = chosen.id
    RETURNING {COLUMNS}
""")

# Planning or finalizing under which processes have died. It is claimed as isolated: the process works on nothing else,
# so its next death can only be this work's fault.
CLAIM_SUSPECT = text(f"""
    WITH chosen AS (
        SELECT next.id FROM queues CROSS JOIN LATERAL (
            SELECT work.id, work.rank FROM work
            WHERE work.queue = queues.name AND work.state = 'ready' AND work.kind <> 'sample' AND work.suspect
            ORDER BY work.rank, work.id LIMIT :count FOR UPDATE OF work SKIP LOCKED
        ) AS next
        WHERE queues.name = ANY(:queues) AND NOT queues.paused
        ORDER BY next.rank, next.id LIMIT :count
    )
    UPDATE work SET {LEASED}, isolated = true
    FROM chosen WHERE work.id = chosen.id
    RETURNING {COLUMNS}
""")

# Planning and finalizing take up to four pieces of each tenant, in random order: ten thousand jobs of one tenant do not
# delay a single job of another.
CLAIM_PLANNING = text(f"""
    WITH chosen AS (
        SELECT oldest.id FROM tenants CROSS JOIN LATERAL (
            SELECT work.id FROM work JOIN queues ON queues.name = work.queue
            WHERE work.tenant = tenants.name AND work.state = 'ready' AND work.kind <> 'sample' AND NOT work.suspect
              AND NOT queues.paused
            ORDER BY work.rank, work.id LIMIT 4 FOR UPDATE OF work SKIP LOCKED
        ) AS oldest
        ORDER BY random() LIMIT :count
    )
    UPDATE work SET {LEASED}, isolated = false
    FROM chosen WHERE work.id = chosen.id
    RETURNING {COLUMNS}
""")


def claim_sampling(
    connection: Connection,
    worker: uuid.UUID,
    *,
    queues: Sequence[str],
    count: int = 1,
    release: str | None = None,
    without: Sequence[str] = (),
) -> list[Lease]:
    """Claim up to `count` shards whose turn it is; shards of the loaded `release` (its digest) within its quantum.

    without: digests of releases whose shards are left to other processes.

    A suspect must run alone: call `isolate` once nothing else runs in this process.
    """
    values = {"queues": list(queues), "worker": worker, "count": count}
    if release is not None:
        rows = connection.execute(CLAIM_SAMPLING_OF_RELEASE, {**values, "release": release}).all()
        if rows:
            return [Lease.from_row(row) for row in rows]
    if without:
        rows = connection.execute(CLAIM_SAMPLING_WITHOUT, {**values, "without": list(without)}).all()
    else:
        rows = connection.execute(CLAIM_SAMPLING, values).all()
    return [Lease.from_row(row) for row in rows]


def claim_planning(connection: Connection, worker: uuid.UUID, *, count: int = 16) -> list[Lease]:
    """Claim planning and finalizing of every queue: one suspect alone, or else up to `count` pieces of work."""
    values = {"worker": worker, "queues": queue_names(connection), "count": 1}
    rows = connection.execute(CLAIM_SUSPECT, values).all()
    rows = rows or connection.execute(CLAIM_PLANNING, {"worker": worker, "count": count}).all()
    return [Lease.from_row(row) for row in rows]


def isolate(connection: Connection, lease: Lease) -> None:
    """Mark leased work as the only work of its process: if the process dies, this work is why. Raises LeaseLost."""
    hold(connection, lease)
    connection.execute(text("UPDATE work SET isolated = true WHERE id = :id"), {"id": lease.id})
