"""Images of jobs: which are settled, where they are stored, and why they failed."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import Connection, text

from services.job_queue.leases import Lease, storable


@dataclass(frozen=True)
class Output:
    """A settled image: stored under `key`, or failed with `error`. A failed image may have no seed yet.

    evaluations: rows of the network that it took. gpu_seconds: its share of the device's time.
    """

    index: int
    item: int
    seed: int | None
    key: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    profile: str | None = None
    error: str | None = None
    evaluations: int | None = None
    gpu_seconds: float | None = None

    @classmethod
    def failure(cls, index: int, item: int, error: str, *, seed: int | None = None) -> Self:
        """Make a failed image; a long error is cut to MAX_ERROR characters."""
        return cls(index, item, seed, error=storable(error))


COLUMNS = ", ".join(field.name for field in fields(Output))


def list_outputs(connection: Connection, job_id: uuid.UUID) -> list[Output]:
    """Return the settled images of a job, by index."""
    rows = connection.execute(text(f"SELECT {COLUMNS} FROM outputs WHERE job_id = :id ORDER BY index"), {"id": job_id})
    return [Output(**row._mapping) for row in rows]


def read_outputs(connection: Connection, job_id: uuid.UUID, start: int, stop: int) -> list[tuple[int, Output]]:
    """Return the settled images [start, stop) of a job by index, each with the revision that settled it.

    Those that failed in an earlier revision are not settled.
    """
    rows = connection.execute(
        text(f"""
            SELECT revision, {COLUMNS} FROM outputs WHERE job_id = :id AND index >= :start AND index < :stop
                AND (error IS NULL OR revision = (SELECT revision FROM jobs WHERE id = :id)) ORDER BY index
        """),
        {"id": job_id, "start": start, "stop": stop},
    )
    return [(revision, Output(*values)) for revision, *values in rows]


def read_ranges(
    connection: Connection, job_id: uuid.UUID, ranges: Sequence[tuple[int, int]], limit: int
) -> list[Output]:
    """Return up to `limit` settled images of a job whose index lies in one of the ranges [start, stop)."""
    rows = connection.execute(
        text(f"""
            SELECT {COLUMNS} FROM unnest(CAST(:starts AS integer[]), CAST(:stops AS integer[])) AS ranges (start, stop)
            CROSS JOIN LATERAL (SELECT * FROM outputs WHERE job_id = :job AND index >= start AND index < stop
                                ORDER BY index LIMIT :limit) AS settled
            LIMIT :limit
        """),
        {"job": job_id, "starts": [r[0] for r in ranges], "stops": [r[1] for r in ranges], "limit": limit},
    )
    return [Output(**row._mapping) for row in rows]


def settled_indices(connection: Connection, job_id: uuid.UUID, start: int, stop: int) -> set[int]:
    """Return which of the images [start, stop) an earlier holder or revision has settled."""
    return set(
        connection.scalars(
            text("SELECT index FROM outputs WHERE job_id = :job AND index >= :start AND index < :stop"),
            {"job": job_id, "start": start, "stop": stop},
        )
    )


@dataclass(frozen=True)
class Settling:
    """Images of a leased shard that are stored or have failed. is_last: with them, all of the shard's are settled.

    is_intermediate: they are of a stage of a chain that is not the last.
    """

    lease: Lease
    outputs: Sequence[Output]
    is_last: bool = False
    is_intermediate: bool = False


def settle_images(connection: Connection, shards: Sequence[Settling]) -> set[int]:
    """Record images of shards of one job in one statement, and end the shards whose last images they are.

    The first record of an index stays. A job's last shard opens its finalizing. Returns the ids of the shards whose
    leases were held; nothing was recorded of the others.
    """
    statement = text("""
        SELECT settle_images(:job, CAST(:shards AS bigint[]), CAST(:tokens AS bigint[]), CAST(:are_last AS boolean[]),
                             CAST(:images AS jsonb))
    """)
    return set(connection.scalars(statement, {"job": shards[0].lease.job_id, **_settling_values(shards)}))


class Outcome(StrEnum):
    """What became of images of a shard: LOST if its lease was not held, LOCKED if another transaction holds its job."""

    SETTLED = "settled"
    LOST = "lost"
    LOCKED = "locked"


def settle_jobs(connection: Connection, shards: Sequence[Settling]) -> dict[int, Outcome]:
    """Record images of shards of any jobs in one statement, as `settle_images` does, without waiting for a job.

    Returns what became of each shard, by its id. Nothing was recorded of those that are not settled.
    """
    statement = text("""
        SELECT shard, outcome FROM settle_jobs(CAST(:shards AS bigint[]), CAST(:tokens AS bigint[]),
            CAST(:are_last AS boolean[]), CAST(:images AS jsonb))
    """)
    return {shard: Outcome(outcome) for shard, outcome in connection.execute(statement, _settling_values(shards))}


def settle_stages(connection: Connection, shards: Sequence[Settling], *, waits: bool) -> dict[int, Outcome]:
    """Record images of stages of chains in one statement. A shard without unfinished images proceeds to its next stage.

    waits: for jobs that another transaction holds. Returns as `settle_jobs` does.
    """
    statement = text("""
        SELECT shard, outcome FROM settle_stages(CAST(:shards AS bigint[]), CAST(:tokens AS bigint[]),
            CAST(:are_last AS boolean[]), CAST(:images AS jsonb), :waits)
    """)
    rows = connection.execute(statement, {**_settling_values(shards), "waits": waits})
    return {shard: Outcome(outcome) for shard, outcome in rows}


def _settling_values(shards: Sequence[Settling]) -> dict[str, Any]:
    return {
        "shards": [one.lease.id for one in shards],
        "tokens": [one.lease.token for one in shards],
        "are_last": [one.is_last for one in shards],
        "images": json.dumps([{"shard": one.lease.id, **vars(output)} for one in shards for output in one.outputs]),
    }


def fail_images(connection: Connection, job_id: uuid.UUID, start: int, stop: int, error: str) -> None:
    """Record every unsettled image in [start, stop) as failed, without checking a lease."""
    values = {"job": job_id, "start": start, "stop": stop, "error": storable(error)}
    connection.execute(text("SELECT fail_images(:job, :start, :stop, :error)"), values)
