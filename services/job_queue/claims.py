"""Claims: a process leases work whose turn it is.

SKIP LOCKED lets claimers pass each other. `kind`, `suspect` and `isolated` are part of each statement's text and not
parameters, because they select the partial index whose order is the order of the claim.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, TextClause, text

from services.job_queue.leases import COLUMNS, DURATION, Lease, update_leased

MANY = 2**31 - 1

# What every claim writes. A claim does not wait for the disk: one that Postgres loses in a crash is a lease that is
# lost, and everything that follows from a lease is lost with it or waits itself. A sequence could then give a token
# again that an earlier holder still has. So a token has 62 random bits.
TOKEN = "(CAST(random() * 2147483648 AS bigint) << 31) + CAST(random() * 2147483647 AS bigint)"
LEASED = f"state = 'leased', token = {TOKEN}, owner = :worker, lease_until = now() + {DURATION}"
# A suspect may end the machine, and its next claim must know of this one.
UNAWAITED = "CASE WHEN NOT work.suspect THEN set_config('synchronous_commit', 'off', true) END AS commits"

# -- sampling ----------------------------------------------------------------------------------

# A tenant's work of a higher priority passes its waiting shards. Each of these moves back when it comes up: by what
# was put before it since it was planned. So no statement has to touch all the tenant's waiting shards.
DEFERRAL = "coalesce(turns.deferred - work.deferred, 0)"
TURNS = "LEFT JOIN turns ON (turns.tenant, turns.queue, turns.priority) = (work.tenant, work.queue, work.priority)"


def _first_ready(condition: str) -> str:
    """Return a FROM clause and more: the first `count` ready shards of a queue, read in the order of an index."""
    return f"""
        FROM work WHERE work.queue = :queue AND work.state = 'ready' AND work.kind = 'sample'
            AND work.rank >= :lowest_rank AND {condition} AND work.tenant <> ALL(CAST(:without_tenants AS text[]))
            AND NOT (SELECT paused FROM queues WHERE name = :queue)
        ORDER BY work.rank, work.id LIMIT :count"""


def _claim(condition: str, clock: str) -> TextClause:
    """Claim the first shards, up to one that must let others pass, and to the one that has the image number `images`.

    A suspect is claimed alone. clock: the queue's virtual time as this claim shows it.
    """
    return text(f"""
        WITH first AS MATERIALIZED (
            SELECT work.* {_first_ready(condition)} FOR UPDATE SKIP LOCKED
        ), ordered AS (
            SELECT work.id, tenants.head_start, row_number() OVER so_far AS position,
                sum(work.stop - work.start) OVER so_far - (work.stop - work.start) AS images_before,
                bool_or(work.suspect) OVER so_far AS has_suspect, bool_or({DEFERRAL} > 0) OVER so_far AS is_deferred
            FROM first AS work JOIN tenants ON tenants.name = work.tenant {TURNS}
            WINDOW so_far AS (ORDER BY work.rank, work.id)
        )
        UPDATE work SET {LEASED}, isolated = false, clock = {clock}, claimed_stage = stage
        FROM ordered WHERE work.id = ordered.id AND NOT is_deferred
            AND (position = 1 OR images_before < :images AND NOT has_suspect)
        RETURNING {COLUMNS}, work.rank, work.cost, work.clock, {UNAWAITED}
    """)


def _push_back(condition: str) -> TextClause:
    """Move those of the first shards back that must let others pass."""
    return text(f"""
        WITH moved AS (
            SELECT work.id, {DEFERRAL} AS deferral, turns.deferred FROM work {TURNS}
            WHERE work.id IN (SELECT work.id {_first_ready(condition)}) AND work.state = 'ready' AND {DEFERRAL} > 0
            FOR UPDATE OF work SKIP LOCKED
        )
        UPDATE work SET rank = rank + deferral, deferred = moved.deferred FROM moved WHERE work.id = moved.id
    """)


OTHERS, OF_RELEASE = "work.pack_key <> ALL(CAST(:without AS text[]))", "work.pack_key = :release"
CLAIM_SAMPLING = _claim(OTHERS, "greatest(:clock, work.rank + ordered.head_start)")
# Shards of the loaded release may run ahead of what is next in turn, so they do not move the clock.
CLAIM_SAMPLING_OF_RELEASE = _claim(OF_RELEASE, "coalesce(nullif(:clock, '-Infinity'), work.rank + ordered.head_start)")
PUSH_BACK, PUSH_BACK_OF_RELEASE = _push_back(OTHERS), _push_back(OF_RELEASE)
PUSH_BACK_ROWS = (8, 64, 512, 4096, 4096, 4096)  # how many shards a claim pushes back, round by round

# -- planning and finalizing -------------------------------------------------------------------

JSON_BYTES = """(SELECT octet_length(CAST(request AS text)) + coalesce(octet_length(CAST(plan AS text)), 0)
    FROM jobs WHERE id = work.job_id) AS json_bytes"""

# Planning or finalizing under which processes have died is a suspect. It is claimed as isolated: the process works on
# nothing else, so its next death can only be this work's fault. While one waits, a process that is not idle may claim
# nothing. Without one, a claim takes a few pieces of each tenant, in random order: ten thousand jobs of one tenant do
# not delay a single job of another.
CLAIM_PLANNING = text(f"""
    WITH waits AS MATERIALIZED (
        SELECT work.id FROM queues CROSS JOIN LATERAL (
            SELECT id FROM work
            WHERE queue = queues.name AND state = 'ready' AND kind <> 'sample' AND suspect
            ORDER BY rank, id LIMIT 8
        ) AS work WHERE NOT queues.paused
    ), suspect AS (
        SELECT id FROM work WHERE :is_idle AND id IN (SELECT id FROM waits) AND state = 'ready'
        ORDER BY rank, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ), others AS (
        SELECT oldest.id FROM tenants CROSS JOIN LATERAL (
            SELECT work.id FROM work JOIN queues ON queues.name = work.queue
            WHERE work.tenant = tenants.name AND work.state = 'ready' AND work.kind <> 'sample' AND NOT work.suspect
              AND NOT queues.paused
            ORDER BY work.rank, work.id LIMIT :each FOR UPDATE OF work SKIP LOCKED
        ) AS oldest
        WHERE tenants.name <> ALL(CAST(:without AS text[]))
            AND NOT EXISTS (SELECT FROM suspect) AND (:is_idle OR NOT :waits OR NOT EXISTS (SELECT FROM waits))
        ORDER BY random() LIMIT :count
    )
    UPDATE work SET {LEASED}, isolated = chosen.isolated
    FROM (SELECT id, true AS isolated FROM suspect UNION ALL SELECT id, false FROM others) AS chosen
    WHERE work.id = chosen.id
    RETURNING {COLUMNS}, {JSON_BYTES}, {UNAWAITED}
""")


@dataclass(frozen=True)
class ClaimedShard(Lease):
    """A shard that was just claimed. clock: its queue's virtual time."""

    rank: float
    cost: int
    clock: float


@dataclass(frozen=True)
class ClaimedPlanning(Lease):
    """Planning or finalizing that was just claimed. json_bytes: of the job's request and plan."""

    json_bytes: int


def claim_sampling(
    connection: Connection,
    worker: uuid.UUID,
    *,
    queues: Sequence[str],
    count: int = 1,
    images: int = MANY,
    release: str | None = None,
    without: Sequence[str] = (),
    without_tenants: Sequence[str] = (),
    lowest_rank: float = -math.inf,
    clock: float = -math.inf,
) -> list[ClaimedShard]:
    """Claim up to `count` shards whose turn it is, in their order, of the first of the queues that has any.

    It claims no more shards once those have `images` images. A suspect must run alone: call `isolate` once nothing
    else runs in this process.

    release: claim only shards of this release, given by its digest. without: claim none of these releases.
    without_tenants: claim none of these tenants. lowest_rank: do not look at shards of a lower rank. clock: the virtual
    time that the process knows.
    """
    values = {"worker": worker, "count": count, "images": images, "release": release, "without": list(without),
              "without_tenants": list(without_tenants), "lowest_rank": lowest_rank, "clock": clock}  # fmt: skip
    claim, push_back = CLAIM_SAMPLING, PUSH_BACK
    if release is not None:
        claim, push_back = CLAIM_SAMPLING_OF_RELEASE, PUSH_BACK_OF_RELEASE
    for queue in queues:
        for rows_to_push in PUSH_BACK_ROWS:
            rows = connection.execute(claim, {**values, "queue": queue}).all()
            if rows:
                return sorted(map(ClaimedShard.from_row, rows), key=lambda shard: (shard.rank, shard.id))
            if not connection.execute(push_back, {**values, "queue": queue, "count": rows_to_push}).rowcount:
                break
    return []


def claim_planning(
    connection: Connection,
    worker: uuid.UUID,
    *,
    count: int = 16,
    each: int = 4,
    without: Sequence[str] = (),
    is_idle: bool = True,
    waits: bool = True,
) -> list[ClaimedPlanning]:
    """Claim planning and finalizing of every queue: one suspect alone, or else up to `count` pieces of work.

    each: pieces of one tenant. without: tenants whose work is not claimed. is_idle: whether the process holds no other
    work, so that it may claim a suspect. waits: whether it otherwise claims nothing while there is a suspect.
    """
    values = {"worker": worker, "count": count, "each": each, "without": list(without),
              "is_idle": is_idle, "waits": waits}  # fmt: skip
    return [ClaimedPlanning.from_row(row) for row in connection.execute(CLAIM_PLANNING, values)]


def isolate(connection: Connection, lease: Lease) -> None:
    """Mark leased work as the only work of its process: if the process dies, this work is why. Raises LeaseLost."""
    update_leased(connection, lease, "isolated = true")
