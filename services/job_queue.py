"""All queue SQL: claim, heartbeat, record, finish, release, rescue.

Postgres is the truth. A claim leases work to a process under a fencing token that no other claim ever gets;
every later write names the token and fails once the lease has gone to somebody else. Every transition is
guarded by the present state. docs/state_machine.md shows them all.
"""

import json
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from services.job_request import image_spec

MAX_ATTEMPTS = 3  # errors of a piece of work before it fails
MAX_LOSSES = 3  # processes that died holding it before it fails
LEASE_S = 900  # the hard deadline of a lease, whatever its owner's heartbeat says
HINT_AGAIN_S = 10  # a hint not followed by a claim for so long was lost


class LeaseLost(Exception):
    """The work was taken back from this process; whatever it was about to write must not be written."""


@dataclass(frozen=True)
class Lease:
    """A piece of work held by this process."""

    id: int
    token: int
    job_id: uuid.UUID
    kind: str
    start: int
    stop: int
    pack_key: str | None
    attempts: int


@dataclass(frozen=True)
class OutputRecord:
    """One finished image: stored under `key`, or not, with the reason."""

    index: int
    item: int
    seed: int
    key: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    profile: str | None = None
    error: str | None = None


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
        text("""
            UPDATE work SET state = 'ready', owner = NULL, lease_until = NULL, dispatched_at = NULL
            WHERE owner = :id AND state = 'leased'
        """),
        {"id": worker},
    )
    connection.execute(text("UPDATE workers SET stopped_at = now() WHERE id = :id"), {"id": worker})


# -- leases ------------------------------------------------------------------------------------

# The one claim. SKIP LOCKED lets claimers pass each other. The condition on the kind is part of the text, not a
# parameter, because it chooses between two partial indexes whose order is the order of the claim.
CLAIM = f"""
    WITH chosen AS (
        SELECT work.id FROM work
        WHERE work.kind {{kind}} AND work.state = 'ready' AND work.queue = ANY(:queues)
          AND NOT EXISTS (SELECT FROM queues WHERE queues.name = work.queue AND queues.paused)
        ORDER BY work.priority DESC, work.id
        LIMIT :count
        FOR UPDATE SKIP LOCKED
    )
    UPDATE work
    SET state = 'leased', token = nextval('work_token'), owner = :worker,
        lease_until = now() + interval '{LEASE_S} seconds'
    FROM chosen WHERE work.id = chosen.id
    RETURNING work.id, work.token, work.job_id, work.kind, work.start, work.stop, work.pack_key, work.attempts
"""
CLAIM_SAMPLING = text(CLAIM.format(kind="= 'sample'"))  # by work_to_sample
CLAIM_PLANNING = text(CLAIM.format(kind="<> 'sample'"))  # and finalizing, by work_to_dispatch


def claim(
    connection: Connection, worker: uuid.UUID, *, sampling: bool, queues: Sequence[str], count: int = 1
) -> list[Lease]:
    """Lease up to `count` pieces of ready work, the most urgent first: sampling, or planning and finalizing."""
    statement = CLAIM_SAMPLING if sampling else CLAIM_PLANNING
    rows = connection.execute(statement, {"queues": list(queues), "worker": worker, "count": count}).all()
    return sorted((Lease(**row._mapping) for row in rows), key=lambda lease: lease.id)


def queue_names(connection: Connection) -> list[str]:
    """Every queue."""
    return list(connection.scalars(text("SELECT name FROM queues ORDER BY name")))


def hold(connection: Connection, lease: Lease) -> None:
    """Keep the lease from changing hands until this transaction ends. Raises LeaseLost if it already did."""
    held = connection.scalar(
        text("SELECT true FROM work WHERE id = :id AND token = :token AND state = 'leased' FOR NO KEY UPDATE"),
        {"id": lease.id, "token": lease.token},
    )
    if not held:
        raise LeaseLost(f"work {lease.id} of job {lease.job_id}")


def release(connection: Connection, lease: Lease) -> None:
    """Give work back unfinished, at once claimable and with no attempt spent. Harmless if the lease is gone."""
    connection.execute(
        text("""
            UPDATE work SET state = 'ready', owner = NULL, lease_until = NULL, dispatched_at = NULL
            WHERE id = :id AND token = :token AND state = 'leased'
        """),
        {"id": lease.id, "token": lease.token},
    )


def complete(connection: Connection, lease: Lease) -> None:
    """Leased work is done. Raises LeaseLost."""
    hold(connection, lease)
    connection.execute(
        text("UPDATE work SET state = 'done', owner = NULL, lease_until = NULL WHERE id = :id"), {"id": lease.id}
    )


def retry_later(connection: Connection, lease: Lease, error: str) -> bool:
    """An attempt failed: try again after a growing pause, or fail for good. Returns whether it will be tried again."""
    hold(connection, lease)
    again = lease.attempts + 1 < MAX_ATTEMPTS
    connection.execute(
        text("""
            UPDATE work SET state = :state, attempts = attempts + 1, owner = NULL, lease_until = NULL, error = :error,
                run_after = CASE WHEN :again THEN now() + make_interval(secs => 2 ^ attempts * (0.5 + random())) END
            WHERE id = :id
        """),
        {"id": lease.id, "state": "delayed" if again else "failed", "again": again, "error": error[:2000]},
    )
    return again


# -- jobs --------------------------------------------------------------------------------------


def reject(connection: Connection, lease: Lease, reason: str) -> None:
    """The job cannot run; its author reads why in `reason`."""
    complete(connection, lease)
    connection.execute(
        text("UPDATE jobs SET state = 'rejected', reason = :reason, finished_at = now() "
             "WHERE id = :id AND state = 'submitted'"),
        {"id": lease.job_id, "reason": reason},
    )  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """Images [start, stop) of a job and what they cost, in network evaluations."""

    start: int
    stop: int
    cost: int


def planned(
    connection: Connection,
    lease: Lease,
    *,
    plan: dict[str, Any],
    release_id: int,
    pack_key: str,
    shards: Sequence[Shard],
) -> None:
    """The job is checked and cut: its sampling work becomes claimable."""
    complete(connection, lease)
    moved = connection.execute(
        text("""
            UPDATE jobs SET state = 'planned', plan = CAST(:plan AS jsonb), release_id = :release, total = :total
            WHERE id = :id AND state = 'submitted' RETURNING queue, priority
        """),
        {"id": lease.job_id, "plan": as_json(plan), "release": release_id, "total": shards[-1].stop},
    ).one()
    connection.execute(
        text("""
            INSERT INTO work (job_id, kind, start, stop, queue, pack_key, priority, cost)
            VALUES (:job_id, 'sample', :start, :stop, :queue, :pack_key, :priority, :cost)
        """),
        [
            {"job_id": lease.job_id, "queue": moved.queue, "priority": moved.priority, "pack_key": pack_key}
            | shard.__dict__
            for shard in shards
        ],
    )


def begin(connection: Connection, lease: Lease) -> None:
    """Sampling of the job has begun."""
    connection.execute(
        text("UPDATE jobs SET state = 'running', started_at = now() WHERE id = :id AND state = 'planned'"),
        {"id": lease.job_id},
    )


def recorded(connection: Connection, lease: Lease) -> set[int]:
    """Which images of the lease's range are already settled, by an earlier holder."""
    return set(
        connection.scalars(
            text("SELECT index FROM outputs WHERE job_id = :job AND index >= :start AND index < :stop"),
            {"job": lease.job_id, "start": lease.start, "stop": lease.stop},
        )
    )


def record(connection: Connection, lease: Lease, outputs: Sequence[OutputRecord]) -> None:
    """Settle images: the first record of an index stays. Raises LeaseLost."""
    hold(connection, lease)
    _insert_outputs(connection, lease.job_id, outputs)


def fail_images(connection: Connection, lease: Lease, error: str) -> None:
    """Settle the open images of a shard that has failed for good, and let its job go on to finalizing."""
    plan = connection.scalar(text("SELECT plan FROM jobs WHERE id = :id"), {"id": lease.job_id})
    settled = recorded(connection, lease)
    specs = [image_spec(plan, [], index) for index in range(lease.start, lease.stop) if index not in settled]
    _insert_outputs(
        connection,
        lease.job_id,
        [OutputRecord(spec.index, spec.item, spec.seed, error=error[:2000]) for spec in specs],
    )
    open_finalize(connection, lease.job_id)


def _insert_outputs(connection: Connection, job_id: uuid.UUID, outputs: Sequence[OutputRecord]) -> None:
    new = []
    for output in outputs:
        row = connection.execute(
            text("""
                INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile, error)
                VALUES (:job_id, :index, :item, :seed, :key, :sha256, :bytes, :profile, :error)
                ON CONFLICT DO NOTHING RETURNING index
            """),
            {"job_id": job_id, **output.__dict__},
        ).first()
        if row is not None:
            new.append(output)
    failed = sum(output.error is not None for output in new)
    connection.execute(
        text("UPDATE jobs SET succeeded = succeeded + :good, failed = failed + :bad WHERE id = :id"),
        {"id": job_id, "good": len(new) - failed, "bad": failed},
    )


def finish_shard(connection: Connection, lease: Lease) -> None:
    """All images of a shard are settled; the job's last shard makes its finalizing claimable. Raises LeaseLost."""
    complete(connection, lease)
    open_finalize(connection, lease.job_id)


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
                RETURNING id, queue, priority
            )
            INSERT INTO work (job_id, kind, queue, priority) SELECT id, 'finalize', queue, priority FROM moved
        """),
        {"id": job_id},
    )


def finalized(connection: Connection, lease: Lease, manifest_key: str) -> str:
    """The manifest is stored: the job ends. Returns its state."""
    complete(connection, lease)
    return str(
        connection.scalar(
            text("""
                UPDATE jobs SET manifest_key = :key, finished_at = now(),
                    state = CASE WHEN failed = 0 THEN 'succeeded' WHEN succeeded = 0 THEN 'failed' ELSE 'partial' END
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


# -- keeping going -----------------------------------------------------------------------------


def wake_delayed(connection: Connection) -> int:
    """Work whose pause is over is ready again. Returns how much."""
    return connection.execute(
        text("UPDATE work SET state = 'ready', run_after = NULL, dispatched_at = NULL "
             "WHERE state = 'delayed' AND run_after <= now()")
    ).rowcount  # fmt: skip


# A lost process spends no attempt of its work: most losses are evictions. What is lost again and again fails.
RESCUE = text(f"""
    UPDATE work SET
        state = CASE WHEN losses + 1 < {MAX_LOSSES} THEN 'ready' ELSE 'failed' END,
        losses = losses + 1, owner = NULL, lease_until = NULL, dispatched_at = NULL,
        error = 'the process that held it stopped answering'
    WHERE state = 'leased' AND (lease_until < now() OR owner IN
        (SELECT id FROM workers WHERE heartbeat_at < now() - make_interval(secs => :stale)))
    RETURNING id, token, job_id, kind, start, stop, pack_key, attempts, state
""")


def rescue(connection: Connection, *, stale_s: float) -> tuple[list[Lease], list[Lease]]:
    """Take work back from processes that fell silent or outlived a lease: (ready again, failed for good)."""
    rows = [dict(row._mapping) for row in connection.execute(RESCUE, {"stale": stale_s})]
    split: dict[str, list[Lease]] = {"ready": [], "failed": []}
    for row in rows:
        split[row.pop("state")].append(Lease(**row))
    return split["ready"], split["failed"]


def queues_to_hint(connection: Connection) -> list[str]:
    """Queues with sampling work that no hint is under way for; their work is stamped as hinted."""
    rows = connection.scalars(
        text(f"""
            UPDATE work SET dispatched_at = now()
            WHERE kind = 'sample' AND state = 'ready'
              AND (dispatched_at IS NULL OR dispatched_at < now() - interval '{HINT_AGAIN_S} seconds')
            RETURNING queue
        """)
    )
    return sorted(set(rows))


def as_json(value: Any) -> str:
    """JSON text for a jsonb parameter."""
    return json.dumps(value)
