"""Processes, what they lease, and how a lease ends."""

import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, TextClause, text

from services.observability import metrics
from training.errors import DarkroomError

MAX_ATTEMPTS = 3  # errors of a piece of work, or crashes that it alone can have caused, before it fails
MAX_LOSSES = 2  # processes that died holding it among others, before it runs alone
# The hard deadline of a lease, whatever its owner's heartbeat says: a quarter of an hour, and 5 s a network evaluation.
DURATION = "(interval '900 seconds' + work.cost * interval '5 seconds')"
FORGOTTEN_S = 10  # after a claim that its process does not know of it
HEAD_START = 3_000  # network evaluations that a priority is worth: about 50 guided images of 30 steps
QUANTUM = 20_000  # evaluations by which the loaded release may run ahead of the others' turn


class LeaseLost(DarkroomError):
    """The work was taken back from this process; whatever it was about to write must not be written."""


@dataclass(frozen=True)
class Lease:
    """A piece of work held by this process."""

    id: int
    token: int
    job_id: uuid.UUID
    kind: str
    queue: str
    tenant: str
    start: int
    stop: int
    pack_key: str | None
    attempts: int
    suspect: bool
    line_start: int | None  # of a job whose items are lines of an object: the first line of the bytes
    byte_start: int | None
    byte_stop: int | None


COLUMNS = ", ".join(f"work.{name}" for name in Lease.__dataclass_fields__)


# -- processes ---------------------------------------------------------------------------------


def register(connection: Connection, kind: str) -> uuid.UUID:
    """Announce this process; a fresh id for each start, so that a restarted pod is never taken for its past."""
    worker = uuid.uuid4()
    connection.execute(
        text("INSERT INTO workers (id, kind, host, pid) VALUES (:id, :kind, :host, :pid)"),
        {"id": worker, "kind": kind, "host": socket.gethostname(), "pid": os.getpid()},
    )
    return worker


def heartbeat(connection: Connection, worker: uuid.UUID, profile: str | None = None) -> None:
    """Say that the process is alive: one row, however much work it holds."""
    connection.execute(
        text("UPDATE workers SET heartbeat_at = now(), profile = coalesce(:profile, profile) WHERE id = :id"),
        {"id": worker, "profile": profile},
    )


def retire(connection: Connection, worker: uuid.UUID) -> None:
    """The process ends of its own will; what it still holds is ready again at once, no attempt spent."""
    connection.execute(
        text(f"UPDATE work SET {READY} WHERE owner = :id AND state = 'leased'"),
        {"id": worker},
    )
    connection.execute(text("UPDATE workers SET stopped_at = now() WHERE id = :id"), {"id": worker})


# -- claims ------------------------------------------------------------------------------------

FREE = "owner = NULL, lease_until = NULL, isolated = false"
READY = f"state = 'ready', {FREE}"

# SKIP LOCKED lets claimers pass each other. What distinguishes the claims is part of their text, not a parameter,
# because it chooses between partial indexes whose order is the order of the claim.
CLAIM = f"""
    WITH chosen AS ({{chosen}})
    UPDATE work
    SET state = 'leased', token = nextval('work_token'), owner = :worker, isolated = {{isolated}},
        lease_until = now() + {DURATION}
    FROM chosen WHERE work.id = chosen.id
    RETURNING {COLUMNS}
"""
QUEUES = "FROM queues CROSS JOIN LATERAL ({each}) AS next WHERE queues.name = ANY(:queues) AND NOT queues.paused"
READY_IN_QUEUE = "FROM work WHERE work.queue = queues.name AND work.state = 'ready'"
IN_TURN = "ORDER BY work.rank, work.id LIMIT :count FOR UPDATE OF work SKIP LOCKED"
FIRST = "ORDER BY next.rank, next.id LIMIT :count"


def _claim(which: str, *, isolated: str = "false") -> TextClause:
    """The ready work of the queues whose turn it is, among `which`."""
    each = f"SELECT work.id, work.rank {READY_IN_QUEUE} AND {which} {IN_TURN}"
    return text(CLAIM.format(chosen=f"SELECT next.id {QUEUES.format(each=each)} {FIRST}", isolated=isolated))


HEAD = QUEUES.format(each=f"SELECT work.rank {READY_IN_QUEUE} AND work.kind = 'sample' ORDER BY work.rank LIMIT 1")
CLAIM_SAMPLING = _claim("work.kind = 'sample'")
# The loaded release's work, as long as it does not run further ahead of the others than the quantum.
CLAIM_SAMPLING_OF_RELEASE = _claim(
    f"work.kind = 'sample' AND work.pack_key = :release AND work.rank <= {QUANTUM} + (SELECT min(next.rank) {HEAD})"
)
CLAIM_SUSPECT = _claim("work.kind <> 'sample' AND work.suspect", isolated="true")
# Planning takes a little of each tenant's: ten thousand jobs of one do not hold up one job of another.
CLAIM_PLANNING = text(
    CLAIM.format(
        chosen="""
        SELECT oldest.id FROM tenants CROSS JOIN LATERAL (
            SELECT work.id FROM work JOIN queues ON queues.name = work.queue
            WHERE work.tenant = tenants.name AND work.state = 'ready' AND work.kind <> 'sample' AND NOT work.suspect
              AND NOT queues.paused
            ORDER BY work.rank, work.id LIMIT 4 FOR UPDATE OF work SKIP LOCKED) AS oldest
        ORDER BY random() LIMIT :count""",
        isolated="false",
    )
)


def claim_sampling(
    connection: Connection, worker: uuid.UUID, *, queues: Sequence[str], count: int = 1, release: str | None = None
) -> list[Lease]:
    """Lease up to `count` shards whose turn it is; those of the loaded `release` (a digest) within its quantum.

    A suspect must run alone: call `isolate` once nothing else is under way in this process.
    """
    values = {"queues": list(queues), "worker": worker, "count": count}
    if release is not None:
        rows = connection.execute(CLAIM_SAMPLING_OF_RELEASE, {**values, "release": release}).all()
        if rows:
            return [Lease(**row._mapping) for row in rows]
    return [Lease(**row._mapping) for row in connection.execute(CLAIM_SAMPLING, values)]


def claim_planning(connection: Connection, worker: uuid.UUID, *, count: int = 16) -> list[Lease]:
    """Lease planning and finalizing of all queues: one suspect alone, or else up to `count` pieces."""
    values = {"worker": worker, "queues": queue_names(connection), "count": 1}
    rows = connection.execute(CLAIM_SUSPECT, values).all()
    rows = rows or connection.execute(CLAIM_PLANNING, {"worker": worker, "count": count}).all()
    return [Lease(**row._mapping) for row in rows]


def isolate(connection: Connection, lease: Lease) -> None:
    """From now on the process works on nothing else: if it dies, this work is why. Raises LeaseLost."""
    hold(connection, lease)
    connection.execute(text("UPDATE work SET isolated = true WHERE id = :id"), {"id": lease.id})


def queue_names(connection: Connection) -> list[str]:
    """Every queue."""
    return list(connection.scalars(text("SELECT name FROM queues ORDER BY name")))


# -- how a lease ends --------------------------------------------------------------------------


def hold(connection: Connection, lease: Lease) -> None:
    """Keep the lease from changing hands until this transaction ends. Raises LeaseLost if it already did."""
    held = connection.scalar(
        text("SELECT true FROM work WHERE id = :id AND token = :token AND state = 'leased' FOR NO KEY UPDATE"),
        {"id": lease.id, "token": lease.token},
    )
    if not held:
        raise LeaseLost(f"work {lease.id} of job {lease.job_id}")


def complete(connection: Connection, lease: Lease, state: str = "done") -> None:
    """Leased work is done, or cancelled. Raises LeaseLost."""
    hold(connection, lease)
    connection.execute(text(f"UPDATE work SET state = :state, {FREE} WHERE id = :id"), {"id": lease.id, "state": state})


def release(connection: Connection, lease: Lease) -> None:
    """Give work back unfinished, ready at once and with no attempt spent. Raises LeaseLost."""
    hold(connection, lease)
    connection.execute(text(f"UPDATE work SET {READY} WHERE id = :id"), {"id": lease.id})


def postpone(connection: Connection, lease: Lease, error: str) -> None:
    """Try again in a few seconds, no attempt spent: something that the work needs is away. Raises LeaseLost."""
    hold(connection, lease)
    connection.execute(
        text(f"""
            UPDATE work SET state = 'delayed', {FREE}, error = :error,
                run_after = now() + make_interval(secs => 3 + 4 * random())
            WHERE id = :id
        """),
        {"id": lease.id, "error": error[:2000]},
    )


def give_back_forgotten(connection: Connection, worker: uuid.UUID, tokens: Sequence[int]) -> int:
    """Make ready what a process leases and does not know of: a claim, or an end, whose answer a broken connection took.

    tokens: of the leases that it knows. A claim that is being made just now is left alone. Returns how much it was.
    """
    return connection.execute(
        text(f"""
            UPDATE work SET {READY}
            WHERE owner = :id AND state = 'leased' AND token <> ALL(CAST(:tokens AS bigint[]))
              AND lease_until - {DURATION} < now() - interval '{FORGOTTEN_S} seconds'
        """),
        {"id": worker, "tokens": list(tokens)},
    ).rowcount


def retry_later(connection: Connection, lease: Lease, error: str) -> bool:
    """An attempt failed: try again after a growing pause, or fail for good. Returns whether it will be tried again.

    Raises LeaseLost.
    """
    hold(connection, lease)
    again = lease.attempts + 1 < MAX_ATTEMPTS
    metrics.RETRIES.labels(lease.kind).inc(again)
    connection.execute(
        text(f"""
            UPDATE work SET state = :state, attempts = attempts + 1, {FREE}, error = :error,
                run_after = CASE WHEN :again THEN now() + make_interval(secs => 2 ^ attempts * (0.5 + random())) END
            WHERE id = :id
        """),
        {"id": lease.id, "state": "delayed" if again else "failed", "again": again, "error": error[:2000]},
    )
    return again


def lost(connection: Connection, work_id: int, error: str) -> bool:
    """A process failed under leased work that may be innocent. Returns whether the work has failed for good by it.

    Held among other work, that is a loss: after MAX_LOSSES the work is a suspect and runs alone. Failing under it
    alone, it has done it: a shard is cut in two, so that in the end the one image fails that does it, and a piece that
    cannot be cut has spent an attempt.
    """
    work = connection.execute(text("SELECT * FROM work WHERE id = :id FOR UPDATE"), {"id": work_id}).one()
    values = {"id": work_id, "error": error[:2000], "middle": (work.start + work.stop) // 2}
    failed = False
    if not work.isolated:
        changes = f"state = 'ready', suspect = losses + 1 >= {MAX_LOSSES}"
    elif work.kind == "sample" and work.stop - work.start > 1:
        connection.execute(
            text("""
                INSERT INTO work (job_id, kind, start, stop, queue, tenant, pack_key, priority, rank, cost, suspect,
                                  losses, error, line_start, byte_start, byte_stop)
                SELECT job_id, kind, :middle, stop, queue, tenant, pack_key, priority, rank, cost / 2, true,
                       losses + 1, :error, line_start, byte_start, byte_stop
                FROM work WHERE id = :id
            """),
            values,
        )
        changes = "state = 'ready', stop = :middle, cost = cost / 2"
    else:
        failed = bool(work.attempts + 1 >= MAX_ATTEMPTS)
        changes = f"state = '{'failed' if failed else 'ready'}', attempts = attempts + 1, suspect = true"
    connection.execute(
        text(f"UPDATE work SET {changes}, losses = losses + 1, error = :error, {FREE} WHERE id = :id"), values
    )
    return failed
