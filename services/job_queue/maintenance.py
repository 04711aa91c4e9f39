"""What nobody holds: work that is due, work of lost processes, jobs that are to stop, hints."""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue import jobs
from services.job_queue.leases import COLUMNS, Lease, complete, lost


def wake_delayed(connection: Connection) -> int:
    """Work whose pause is over is ready. Returns how much."""
    return connection.execute(
        text("UPDATE work SET state = 'ready', run_after = NULL "
             "WHERE state = 'delayed' AND run_after <= now()")
    ).rowcount  # fmt: skip


# -- lost processes ----------------------------------------------------------------------------


def rescue(connection: Connection, *, stale_s: float) -> tuple[list[Lease], list[Lease]]:
    """Take work back from processes that fell silent or outlived a lease: (tried again, failed for good)."""
    rows = connection.execute(
        text(f"""
            SELECT {COLUMNS} FROM work
            WHERE state = 'leased' AND (lease_until < now() OR owner IN
                (SELECT id FROM workers WHERE heartbeat_at < now() - make_interval(secs => :stale)))
            ORDER BY work.id FOR UPDATE SKIP LOCKED
        """),
        {"stale": stale_s},
    ).all()
    again: list[Lease] = []
    failed: list[Lease] = []
    for lease in (Lease(**row._mapping) for row in rows):
        gone = lost(connection, lease.id, "the process that held it stopped answering")
        (failed if gone else again).append(lease)
    return again, failed


# -- jobs that are to stop ---------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """A job that is to stop, and why."""

    job_id: uuid.UUID
    cancelled: bool  # else its deadline has passed
    deadline: Any


ENDINGS = """
    SELECT id AS job_id, cancel_requested_at IS NOT NULL AS cancelled, deadline FROM jobs
    WHERE finished_at IS NULL AND (cancel_requested_at IS NOT NULL OR deadline < now())
"""


def endings(connection: Connection, among: list[uuid.UUID]) -> list[Ending]:
    """Which of these jobs are to stop."""
    rows = connection.execute(text(f"{ENDINGS} AND id = ANY(:among)"), {"among": among})
    return [Ending(**row._mapping) for row in rows]


def stop_jobs(connection: Connection, limit: int = 100) -> list[Ending]:
    """End the unclaimed work of jobs that are to stop. What is claimed, its holder ends within a second or two."""
    rows = connection.execute(
        text(f"{ENDINGS} AND state IN ('submitted', 'planned', 'running') ORDER BY id LIMIT :limit "
             "FOR NO KEY UPDATE SKIP LOCKED"),
        {"limit": limit},
    ).all()  # fmt: skip
    found = [Ending(**row._mapping) for row in rows]
    for ending in found:
        _stop(connection, ending)
    return found


def _stop(connection: Connection, ending: Ending) -> None:
    # What another process is just claiming is skipped: waiting for it, while it waits for the job, would be a deadlock.
    rows = connection.execute(
        text(f"""
            UPDATE work SET state = 'cancelled', run_after = NULL WHERE id IN (
                SELECT id FROM work WHERE job_id = :id AND state IN ('ready', 'delayed') FOR UPDATE SKIP LOCKED)
            RETURNING {COLUMNS}, work.cost
        """),
        {"id": ending.job_id},
    ).all()
    if connection.scalar(text("SELECT state FROM jobs WHERE id = :id"), {"id": ending.job_id}) == "submitted":
        if rows:  # else it is being planned just now
            connection.execute(
                text("UPDATE jobs SET state = :state, reason = :reason, finished_at = now() WHERE id = :id"),
                {"id": ending.job_id, "state": "cancelled" if ending.cancelled else "failed", "reason": why(ending)},
            )
        return
    if rows:  # what is not served is not charged: the tenant's next job has its turn that much earlier
        connection.execute(
            text("""
                UPDATE tenants SET virtual_time = virtual_time - :cost / weight
                FROM jobs WHERE jobs.id = :id AND tenants.name = jobs.tenant
            """),
            {"id": ending.job_id, "cost": sum(row.cost for row in rows)},
        )
    if not ending.cancelled:
        for row in rows:
            values = {name: value for name, value in row._mapping.items() if name != "cost"}
            jobs.settle_as_failed(connection, Lease(**values), why(ending))
    jobs.open_finalize(connection, ending.job_id)


def stop_shard(connection: Connection, lease: Lease, ending: Ending) -> None:
    """End a shard of a job that is to stop, by its holder. Raises LeaseLost."""
    complete(connection, lease, "cancelled")
    if ending.cancelled:
        jobs.open_finalize(connection, lease.job_id)
    else:
        jobs.fail_images(connection, lease, why(ending))


def why(ending: Ending) -> str:
    """The reason, for a person."""
    return "cancelled" if ending.cancelled else f"its deadline, {ending.deadline:%Y-%m-%d %H:%M:%S %Z}, has passed"


# -- hints -------------------------------------------------------------------------------------


def queues_with_work(connection: Connection) -> list[str]:
    """Queues that have sampling work for whoever asks."""
    return list(
        connection.scalars(
            text("""
                SELECT name FROM queues WHERE NOT paused AND EXISTS (
                    SELECT FROM work WHERE queue = queues.name AND state = 'ready' AND kind = 'sample')
                ORDER BY name
            """)
        )
    )
