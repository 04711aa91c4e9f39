"""The queue in numbers, as one consistent reading with the rights of the observer role."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.job_queue.processes import count_alive
from services.job_queue.queues import paused_queues

STATEMENT_TIMEOUT_S = 10


@dataclass(frozen=True)
class QueueLoad:
    """What Postgres knows about the queue at one moment."""

    queues: dict[str, bool]  # name: whether it is paused
    work: dict[tuple[str, str, str], tuple[int, int]]  # (queue, tenant, state): network evaluations, images
    jobs: dict[tuple[str, str, str], tuple[int, float]]  # (queue, tenant, state): count, age of the oldest in seconds
    settled: dict[str, tuple[str, int]]  # job that a process works on: queue, settled images
    processes: dict[str, int]  # kind: how many are alive


def read_load(connection: Connection, stale_s: float) -> QueueLoad:
    """Read the load in a transaction of its own snapshot. A process is alive for `stale_s` after its heartbeat."""
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
    queues = paused_queues(connection)
    work = {
        (row.queue, row.tenant, row.state): (row.evaluations, row.images)
        for row in connection.execute(text("SELECT * FROM queue_load"))
    }
    jobs = {
        (row.queue, row.tenant, row.state): (row.jobs, row.age)
        for row in connection.execute(
            text("SELECT *, greatest(0, extract(epoch FROM now() - since))::float AS age FROM open_jobs")
        )
    }
    settled = {
        str(row.id): (row.queue, row.settled) for row in connection.execute(text("SELECT * FROM jobs_under_way"))
    }
    return QueueLoad(queues, work, jobs, settled, count_alive(connection, stale_s))
