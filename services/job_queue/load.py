"""The queue in numbers, as one consistent reading with the rights of the observer role."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection, text

from services.database.connections import brief
from services.database.faults import is_outage
from services.job_queue.processes import count_alive
from services.job_queue.queues import paused_queues
from services.job_queue.usage import Usage, read_usage_today

STATEMENT_TIMEOUT_S = 3
Value = TypeVar("Value")


@dataclass
class QueueLoad:
    """What Postgres knows about the queue at one moment. What could not be read is None, and `errors` says why."""

    queues: dict[str, bool] | None = None  # name: whether it is paused
    work: dict[tuple[str, str, str], tuple[int, int]] | None = None  # (queue, tenant, state): evaluations, images
    jobs: dict[tuple[str, str, str], tuple[int, float]] | None = None  # (queue, tenant, state): count, oldest's age (s)
    settled: dict[str, tuple[str, int]] | None = None  # job that a process works on: queue, settled images
    processes: dict[str, int] | None = None  # kind: how many are alive
    usage: list[Usage] | None = None  # of today
    notifications: float | None = None  # how full the server's queue of notifications is, in [0, 1]
    errors: dict[str, str] = field(default_factory=dict)  # by the name of the attribute


def read_load(connection: Connection, stale_s: float) -> QueueLoad:
    """Read the load in a transaction of its own snapshot. A process is alive for `stale_s` after its heartbeat.

    A query that fails, perhaps because of one row, keeps the others from nothing.
    """
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
    load = QueueLoad()

    def attempt(name: str, read: Callable[[Connection], Value]) -> Value | None:
        try:
            with connection.begin_nested():
                return read(connection)
        except Exception as error:
            if is_outage(error):
                raise
            load.errors[name] = f"{type(error).__name__}: {brief(error)}"
            return None

    load.queues = attempt("queues", paused_queues)
    load.work = attempt("work", _read_work)
    load.jobs = attempt("jobs", _read_jobs)
    load.settled = attempt("settled", _read_settled)
    load.processes = attempt("processes", lambda connection: count_alive(connection, stale_s))
    load.usage = attempt("usage", read_usage_today)
    load.notifications = attempt("notifications", _read_notifications)
    return load


def _read_work(connection: Connection) -> dict[tuple[str, str, str], tuple[int, int]]:
    rows = connection.execute(text("SELECT queue, tenant, state, evaluations, images FROM queue_load"))
    return {(row.queue, row.tenant, row.state): (row.evaluations, row.images) for row in rows}


def _read_jobs(connection: Connection) -> dict[tuple[str, str, str], tuple[int, float]]:
    rows = connection.execute(
        text("SELECT queue, tenant, state, jobs, "
             "coalesce(greatest(0, extract(epoch FROM now() - since)), 0)::float AS age FROM open_jobs")
    )  # fmt: skip
    return {(row.queue, row.tenant, row.state): (row.jobs, row.age) for row in rows}


def _read_settled(connection: Connection) -> dict[str, tuple[str, int]]:
    rows = connection.execute(text("SELECT id, queue, settled FROM jobs_under_way"))
    return {str(row.id): (row.queue, row.settled) for row in rows}


def _read_notifications(connection: Connection) -> float:
    return float(connection.scalar(text("SELECT pg_notification_queue_usage()")) or 0)
