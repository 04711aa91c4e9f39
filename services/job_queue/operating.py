"""The operator's view of the service: processes, queues and waiting jobs."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from services.job_queue.states import JobState


@dataclass(frozen=True)
class ProcessLine:
    """A process of the service. queues: that a worker serves, None for all. images: in shards that it works on."""

    id: uuid.UUID
    kind: str
    host: str
    pid: int
    profile: str | None
    queues: list[str] | None
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    silent: bool
    leases: int
    images: int


def list_processes(connection: Connection, stale_s: float, limit: int) -> list[ProcessLine]:
    """Return up to `limit` processes, those that run first, then the newest. Operators see any, others none.

    stale_s: seconds without a heartbeat after which a process that did not stop is silent.
    """
    rows = connection.execute(
        text("""
            SELECT id, kind, host, pid, profile, queues, started_at, heartbeat_at, stopped_at,
                stopped_at IS NULL AND heartbeat_at < now() - make_interval(secs => :stale) AS silent, leases, images
            FROM visible_processes LEFT JOIN visible_leases ON owner = visible_processes.id
            ORDER BY stopped_at IS NOT NULL, kind, started_at DESC LIMIT :limit
        """),
        {"stale": stale_s, "limit": limit},
    )
    return [ProcessLine(**{**row._mapping, "leases": row.leases or 0, "images": row.images or 0}) for row in rows]


@dataclass(frozen=True)
class QueueLine:
    """A queue: its jobs that have not ended, their images that are not made, and shards that are worked on.

    A job has up to thousands of shards, so that those that wait are not counted. oldest: when the first job came.
    """

    name: str
    paused: bool
    jobs: int
    images: int
    leased: int
    tenants: int
    oldest: datetime | None


def list_queue_lines(connection: Connection) -> list[QueueLine]:
    """Return every queue by name. Operators see any, others none."""
    columns = ", ".join(QueueLine.__dataclass_fields__)
    rows = connection.execute(text(f"SELECT {columns} FROM visible_queue_jobs ORDER BY name"))
    return [QueueLine(**row._mapping) for row in rows]


@dataclass(frozen=True)
class WaitingJob:
    """A job of the viewer's tenant that waits, and why."""

    id: uuid.UUID
    model: str
    queue: str
    state: JobState
    total: int
    created_at: datetime
    waits_because: str


def list_waiting_jobs(connection: Connection, limit: int) -> list[WaitingJob]:
    """Return up to `limit` open jobs of the tenant that wait, oldest first, with the reason."""
    rows = connection.execute(
        text("""
            WITH waiting AS (SELECT id, model, queue, created_at FROM jobs WHERE finished_at IS NULL ORDER BY id
                             LIMIT :limit)
            SELECT id, model, queue, state, total, created_at, waits_because
            FROM waiting JOIN job_progress USING (id) WHERE waits_because IS NOT NULL ORDER BY id
        """),
        {"limit": limit},
    )
    return [WaitingJob(**{**row._mapping, "state": JobState(row.state)}) for row in rows]


def set_paused(connection: Connection, name: str, *, paused: bool) -> None:
    """Pause or resume a queue. Raises DBAPIError if the viewer does not operate the service, or it does not exist."""
    connection.execute(text("SELECT set_queue_paused(:name, :paused)"), {"name": name, "paused": paused})
