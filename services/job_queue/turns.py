"""Turns: in which order tenants and priorities are served in a queue.

A shard's rank is its turn; docs/state_machine.md describes the order. The migrations define `take_turns`.
"""

import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice

from sqlalchemy import Connection, text

INSERT_ROWS = 1_000  # shards of one statement


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


FIELDS = ", ".join(Shard.__dataclass_fields__)

# One statement takes the turns and inserts the shards, because it locks the tenant's turns in the queue.
ADD_SHARDS = text(f"""
    INSERT INTO work (job_id, kind, pack_key, tenant, queue, priority, deferred, rank, {FIELDS})
    SELECT :job, 'sample', :release, tenant, queue, priority, deferred,
        rank + (sum(cost) OVER (ORDER BY start) - cost) / weight, {FIELDS}
    FROM take_turns(:job, :total) CROSS JOIN unnest(
        CAST(:start AS integer[]), CAST(:stop AS integer[]), CAST(:cost AS bigint[]), CAST(:line_start AS integer[]),
        CAST(:byte_start AS bigint[]), CAST(:byte_stop AS bigint[])
    ) AS shard ({FIELDS})
    ORDER BY start
""")


def add_shards(connection: Connection, job_id: uuid.UUID, release_digest: str, shards: Iterable[Shard]) -> int:
    """Make shards claimable, each in its turn. Returns how many.

    The tenant's turns in the queue stay locked until the transaction ends, so this should be its last statement.
    """
    rest, count = iter(shards), 0
    while group := list(islice(rest, INSERT_ROWS)):
        rows = [asdict(shard) for shard in group]
        columns = {name: [row[name] for row in rows] for name in Shard.__dataclass_fields__}
        values = {"job": job_id, "release": release_digest, "total": float(sum(columns["cost"])), **columns}
        connection.execute(ADD_SHARDS, values)
        count += len(group)
    return count
