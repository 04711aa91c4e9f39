"""Work that no live process holds: delayed work that is due, and work of lost processes.

Each function takes a limited number of rows, and skips rows that others have locked.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from services.job_queue.leases import COLUMNS, FREE, MAX_LOSSES, Lease, record_loss

LOST = "the process that held it stopped answering"
ROWS = 2_000  # of one transaction


def try_lock(connection: Connection) -> bool:
    """Lock the stopping of jobs until the transaction ends. Returns False if another dispatcher has locked it."""
    query = text("SELECT true FROM service_locks WHERE name = 'reconcile' FOR UPDATE SKIP LOCKED")
    return bool(connection.scalar(query))


def end_client_sessions(connection: Connection, older_than_s: float) -> int:
    """End the sessions of clients whose transaction is older, or whose login holds a quarter of all locks.

    An open transaction keeps dead rows from being removed, and notifications from being read. Returns how many ended.
    """
    query = text("SELECT end_long_client_transactions(make_interval(secs => :seconds))")
    return int(connection.scalar(query, {"seconds": older_than_s}) or 0)


# -- delayed work ------------------------------------------------------------------------------


def find_due_work(connection: Connection) -> list[int]:
    """Return delayed work whose pause is over."""
    query = text("SELECT id FROM work WHERE state = 'delayed' AND run_after <= now() LIMIT :limit")
    return list(connection.scalars(query, {"limit": ROWS}))


def wake_delayed(connection: Connection, work_ids: Sequence[int]) -> int:
    """Make due work ready. Returns how many rows."""
    return connection.execute(
        text("""
            UPDATE work SET state = 'ready', run_after = NULL WHERE id IN (
                SELECT id FROM work WHERE id = ANY(:ids) AND state = 'delayed' AND run_after <= now()
                FOR UPDATE SKIP LOCKED)
        """),
        {"ids": list(work_ids)},
    ).rowcount


# -- lost processes ----------------------------------------------------------------------------

# A heartbeat in the future is none: the clock of the database was set back, or the row is damaged.
IS_LOST = """
    state = 'leased' AND (lease_until < now() OR NOT EXISTS (SELECT FROM workers WHERE id = work.owner AND heartbeat_at
        BETWEEN now() - make_interval(secs => :stale) AND now() + make_interval(secs => :stale)))
"""


def find_lost_work(connection: Connection, stale_s: float) -> list[int]:
    """Return work of processes without a heartbeat for `stale_s` seconds, and of leases past their deadline."""
    query = text(f"SELECT id FROM work WHERE {IS_LOST} ORDER BY id LIMIT :limit")
    return list(connection.scalars(query, {"stale": stale_s, "limit": ROWS}))


def rescue(connection: Connection, work_ids: Sequence[int], *, stale_s: float) -> tuple[list[Lease], list[Lease]]:
    """Take lost work from its processes.

    Returns (the leases whose work will be retried, those whose work has failed for good).
    """
    values = {"ids": list(work_ids), "stale": stale_s, "error": LOST}
    rows = connection.execute(
        text(f"SELECT {COLUMNS}, isolated FROM work WHERE id = ANY(:ids) AND {IS_LOST} ORDER BY id "
             "FOR UPDATE SKIP LOCKED"),
        values,
    ).all()  # fmt: skip
    together = [Lease.from_row(row) for row in rows if not row.isolated]
    connection.execute(
        text(f"""
            UPDATE work SET state = 'ready', suspect = losses + 1 >= {MAX_LOSSES}, losses = losses + 1, error = :error,
                {FREE} WHERE id = ANY(:ids)
        """),
        {**values, "ids": [lease.id for lease in together]},
    )
    alone = [Lease.from_row(row) for row in rows if row.isolated]
    failed = [lease for lease in alone if record_loss(connection, lease.id, LOST)]
    return together + [lease for lease in alone if lease not in failed], failed
