"""Work that no live process holds: delayed work that is due, work of lost processes, and jobs to stop."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from services.job_queue import jobs
from services.job_queue.leases import COLUMNS, Lease, complete, record_loss
from services.job_queue.outputs import fail_open_images
from services.job_queue.states import JobState, WorkState


def try_lock(connection: Connection) -> bool:
    """Take the lock of reconciliation until the transaction ends. Returns False if another dispatcher holds it."""
    return bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(hashtext('darkroom reconcile'))")))


def wake_delayed(connection: Connection) -> int:
    """Make delayed work ready whose pause is over. Returns how many rows."""
    return connection.execute(
        text("UPDATE work SET state = 'ready', run_after = NULL "
             "WHERE state = 'delayed' AND run_after <= now()")
    ).rowcount  # fmt: skip


# -- lost processes ----------------------------------------------------------------------------


def rescue(connection: Connection, *, stale_s: float) -> tuple[list[Lease], list[Lease]]:
    """Take work from processes without a heartbeat for `stale_s` seconds, and from leases past their deadline.

    Returns (the leases whose work will be retried, those whose work has failed for good).
    """
    rows = connection.execute(
        text(f"""
            SELECT {COLUMNS} FROM work
            WHERE state = 'leased' AND (lease_until < now() OR owner IN
                (SELECT id FROM workers WHERE heartbeat_at < now() - make_interval(secs => :stale)))
            ORDER BY work.id FOR UPDATE SKIP LOCKED
        """),
        {"stale": stale_s},
    ).all()
    retried: list[Lease] = []
    failed: list[Lease] = []
    for lease in map(Lease.from_row, rows):
        has_failed = record_loss(connection, lease.id, "the process that held it stopped answering")
        (failed if has_failed else retried).append(lease)
    return retried, failed


# -- jobs to stop ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StopRequest:
    """A job that must stop: its owner cancelled it, or its deadline has passed."""

    job_id: uuid.UUID
    cancelled: bool
    deadline: datetime | None

    @property
    def reason(self) -> str:
        """Why the job stops, for its owner."""
        return "cancelled" if self.cancelled else f"its deadline, {self.deadline:%Y-%m-%d %H:%M:%S %Z}, has passed"


STOP_REQUESTS = """
    SELECT id AS job_id, cancel_requested_at IS NOT NULL AS cancelled, deadline FROM jobs
    WHERE finished_at IS NULL AND (cancel_requested_at IS NOT NULL OR deadline < now())
"""


def accept_cancel_requests(connection: Connection) -> None:
    """Record in the jobs which of them their clients have cancelled. A request for a job that has ended is dropped."""
    connection.execute(
        text("""
            WITH accepted AS (
                DELETE FROM cancel_requests WHERE job_id IN (
                    SELECT job_id FROM cancel_requests LIMIT 1000 FOR UPDATE SKIP LOCKED)
                RETURNING job_id, requested_at
            )
            UPDATE jobs SET cancel_requested_at = requested_at FROM accepted WHERE id = job_id AND finished_at IS NULL
        """)
    )


def find_stop_requests(connection: Connection, job_ids: list[uuid.UUID]) -> list[StopRequest]:
    """Return which of these jobs must stop."""
    rows = connection.execute(text(f"{STOP_REQUESTS} AND id = ANY(:among)"), {"among": job_ids})
    return [StopRequest(**row._mapping) for row in rows]


def stop_jobs(connection: Connection, limit: int = 100) -> list[StopRequest]:
    """End the unclaimed work of up to `limit` jobs that must stop. Workers stop claimed work within two seconds."""
    accept_cancel_requests(connection)
    rows = connection.execute(
        text(f"{STOP_REQUESTS} AND state IN ('submitted', 'planned', 'running') ORDER BY id LIMIT :limit "
             "FOR NO KEY UPDATE SKIP LOCKED"),
        {"limit": limit},
    ).all()  # fmt: skip
    requests = [StopRequest(**row._mapping) for row in rows]
    for request in requests:
        _stop_job(connection, request)
    return requests


def _stop_job(connection: Connection, request: StopRequest) -> None:
    # This skips work that another process is claiming: waiting for it while it waits for the job would be a deadlock.
    rows = connection.execute(
        text(f"""
            UPDATE work SET state = 'cancelled', run_after = NULL WHERE id IN (
                SELECT id FROM work WHERE job_id = :id AND state IN ('ready', 'delayed') FOR UPDATE SKIP LOCKED)
            RETURNING {COLUMNS}, work.cost
        """),
        {"id": request.job_id},
    ).all()
    state = connection.scalar(text("SELECT state FROM jobs WHERE id = :id"), {"id": request.job_id})
    if state == JobState.SUBMITTED:
        if rows:  # without rows its planning is leased just now
            ended = JobState.CANCELLED if request.cancelled else JobState.FAILED
            connection.execute(
                text("UPDATE jobs SET state = :state, reason = :reason, finished_at = now() WHERE id = :id"),
                {"id": request.job_id, "state": ended, "reason": request.reason},
            )
        return
    if rows:  # Work that is not served is not charged: the tenant's next job has its turn that much earlier.
        connection.execute(
            text("""
                UPDATE tenants SET virtual_time = virtual_time - :cost / weight
                FROM jobs WHERE jobs.id = :id AND tenants.name = jobs.tenant
            """),
            {"id": request.job_id, "cost": sum(row.cost for row in rows)},
        )
    if not request.cancelled:
        for row in rows:
            fail_open_images(connection, Lease.from_row(row), request.reason)
    jobs.open_finalizing(connection, request.job_id)


def stop_shard(connection: Connection, lease: Lease, request: StopRequest) -> None:
    """End a leased shard of a job that must stop. Raises LeaseLost."""
    complete(connection, lease, WorkState.CANCELLED)
    if request.cancelled:
        jobs.open_finalizing(connection, lease.job_id)
    else:
        jobs.fail_shard(connection, lease, request.reason)
