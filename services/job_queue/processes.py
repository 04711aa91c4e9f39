"""Processes that hold leases: each start registers a row of `workers` and keeps its heartbeat fresh."""

import os
import socket
import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, text

from services.job_queue.leases import DURATION, READY
from services.job_queue.states import ProcessKind

UNKNOWN_S = 10  # a claim younger than this may still be on its way to its process
KEPT = "interval '7 days'"  # for which the row of a stopped process is kept


def register(connection: Connection, kind: ProcessKind, queues: Sequence[str] | None = None) -> uuid.UUID:
    """Register this process and return its id. Each start has a fresh id, so a restarted pod is a new process.

    queues: those that a worker serves.
    """
    worker = uuid.uuid4()
    connection.execute(
        text("INSERT INTO workers (id, kind, host, pid, queues) VALUES (:id, :kind, :host, :pid, :queues)"),
        {"id": worker, "kind": kind, "host": socket.gethostname(), "pid": os.getpid(), "queues": queues},
    )
    return worker


def record_heartbeat(connection: Connection, worker: uuid.UUID, profile: str | None = None) -> None:
    """Record that the process is alive: one row, however much work it holds."""
    connection.execute(
        text("UPDATE workers SET heartbeat_at = now(), profile = coalesce(:profile, profile) WHERE id = :id"),
        {"id": worker, "profile": profile},
    )


def retire(connection: Connection, worker: uuid.UUID) -> None:
    """Record that the process stops, and return its leased work to the queue. This counts as no attempt."""
    connection.execute(
        text(f"UPDATE work SET {READY} WHERE owner = :id AND state = 'leased'"),
        {"id": worker},
    )
    connection.execute(text("UPDATE workers SET stopped_at = now() WHERE id = :id"), {"id": worker})


def release_forgotten_leases(connection: Connection, worker: uuid.UUID, tokens: Sequence[int]) -> int:
    """Return work to the queue that is leased to a process which does not know about it. Returns how many rows.

    A lost connection can swallow the answer to a claim or to the end of a lease. `tokens` are the leases that the
    process knows. A claim of the last UNKNOWN_S seconds is left alone: its answer may still be on the way.
    """
    return connection.execute(
        text(f"""
            UPDATE work SET {READY}
            WHERE owner = :id AND state = 'leased' AND token <> ALL(CAST(:tokens AS bigint[]))
              AND lease_until - {DURATION} < now() - interval '{UNKNOWN_S} seconds'
        """),
        {"id": worker, "tokens": list(tokens)},
    ).rowcount


def count_alive(connection: Connection, stale_s: float) -> dict[str, int]:
    """Return how many processes of each kind run and had a heartbeat in the last `stale_s` seconds."""
    rows = connection.execute(
        text("""
            SELECT kind, count(*) AS processes FROM workers
            WHERE stopped_at IS NULL AND heartbeat_at > now() - make_interval(secs => :stale) GROUP BY kind
        """),
        {"stale": stale_s},
    )
    return {row.kind: row.processes for row in rows}


def prune_processes(connection: Connection) -> int:
    """Delete the rows of processes that stopped or fell silent a week ago and hold no lease. Returns how many."""
    return connection.execute(
        text(f"""
            DELETE FROM workers WHERE coalesce(stopped_at, heartbeat_at) < now() - {KEPT}
            AND NOT EXISTS (SELECT FROM work WHERE owner = workers.id AND state = 'leased')
        """)
    ).rowcount
