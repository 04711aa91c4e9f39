"""Leases: work that a process holds under a fencing token, and how a lease ends."""

import uuid
from dataclasses import dataclass, field
from typing import Any, Self

from sqlalchemy import Connection, Row, text

from services.job_queue.states import WorkKind, WorkState
from services.observability import metrics
from training.errors import DarkroomError

MAX_ATTEMPTS = 3  # failed attempts, or crashes that only this work can have caused, after which it fails
MAX_ERROR = 2_000  # characters of an error that are kept
MAX_LOSSES = 2  # processes that died while they held it and other work, after which it runs alone
# A lease ends after this time even if its owner is alive: 15 minutes plus 5 s per network evaluation.
DURATION = "(interval '900 seconds' + work.cost * interval '5 seconds')"

FREE = "owner = NULL, lease_until = NULL, isolated = false"
READY = f"state = 'ready', {FREE}"


class LeaseLost(DarkroomError):
    """Another process may hold the work now, so nothing more may be written about it."""


@dataclass(frozen=True)
class Lease:
    """Work that this process holds. A shard has the images [start, stop); `line_start` and bytes locate its lines."""

    id: int
    token: int
    job_id: uuid.UUID
    kind: WorkKind
    queue: str
    tenant: str
    start: int
    stop: int
    pack_key: str | None
    attempts: int
    suspect: bool
    line_start: int | None  # number of the line at byte_start; None if the request lists the items
    byte_start: int | None
    byte_stop: int | None
    stage: int | None = field(default=None, kw_only=True)  # of a chain, from 0; None for other jobs

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """Make a lease of a row that has its columns and perhaps others."""
        values = {name: row._mapping[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "kind": WorkKind(row.kind)})


COLUMNS = ", ".join(f"work.{name}" for name in Lease.__dataclass_fields__)


def lease_lost(lease: Lease) -> LeaseLost:
    """Return the error of a write about work that this process no longer holds."""
    return LeaseLost(f"work {lease.id} of job {lease.job_id}: the lease has ended; another process may hold it")


def update_leased(connection: Connection, lease: Lease, changes: str, **values: Any) -> None:
    """Change the row of leased work in one statement. changes: the SET clause. Raises LeaseLost."""
    changed = connection.execute(
        text(f"UPDATE work SET {changes} WHERE id = :id AND token = :token AND state = 'leased'"),
        {"id": lease.id, "token": lease.token, **values},
    )
    if not changed.rowcount:
        raise lease_lost(lease)


def extend(connection: Connection, lease: Lease) -> None:
    """Hold the lease until this transaction ends, and give the work its whole time again. Raises LeaseLost."""
    update_leased(connection, lease, f"lease_until = now() + {DURATION}")


def complete(connection: Connection, lease: Lease, state: WorkState = WorkState.DONE) -> None:
    """End a lease whose work is done or cancelled. Raises LeaseLost."""
    update_leased(connection, lease, f"state = :state, {FREE}", state=state)


def release_lease(connection: Connection, lease: Lease) -> None:
    """Return work unfinished to the queue, ready at once. This counts as no attempt. Raises LeaseLost."""
    update_leased(connection, lease, READY)


def postpone(connection: Connection, lease: Lease, error: str) -> None:
    """Retry the work in a few seconds, after a transient error. This counts as no attempt. Raises LeaseLost."""
    changes = f"state = 'delayed', {FREE}, error = :error, run_after = now() + make_interval(secs => 3 + 4 * random())"
    update_leased(connection, lease, changes, error=storable(error))


def fail_attempt(connection: Connection, lease: Lease, error: str) -> bool:
    """Count a failed attempt and retry after a growing pause; the last attempt fails the work.

    Returns whether the work will be retried. Raises LeaseLost.
    """
    again = has_attempts(lease)
    changes = f"""state = :state, attempts = attempts + 1, {FREE}, error = :error,
        run_after = CASE WHEN :again THEN now() + make_interval(secs => 2 ^ attempts * (0.5 + random())) END"""
    state = WorkState.DELAYED if again else WorkState.FAILED
    update_leased(connection, lease, changes, state=state, again=again, error=storable(error))
    metrics.RETRIES.labels(lease.kind).inc(again)
    return again


def has_attempts(lease: Lease) -> bool:
    """Return whether work whose present attempt fails will be tried again."""
    return lease.attempts + 1 < MAX_ATTEMPTS


def storable(error: str) -> str:
    """Return an error as the database can store it: at most MAX_ERROR characters, and printable."""
    return printable(error[:MAX_ERROR])


def printable(text: str) -> str:
    """Return a text in which each character that is no line break and cannot be printed is replaced.

    These are NUL, lone surrogates, control characters, and those that change the direction of a line.
    """
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)


def record_loss(connection: Connection, work_id: int, error: str) -> bool:
    """Record that a process failed while it held the work. Returns whether the work has failed for good.

    A process that held other work too may have failed because of that: after MAX_LOSSES such losses the work is a
    suspect and runs alone. A process that held only this work failed because of it. A shard is then cut in two, again
    and again until a single image is left; work that cannot be cut has used an attempt.
    """
    values = {"id": work_id, "error": storable(error), "attempts": MAX_ATTEMPTS, "losses": MAX_LOSSES}
    return bool(connection.scalar(text("SELECT record_loss(:id, :error, :attempts, :losses)"), values))
