"""Claims of planning and finalizing piece by piece, for when a claim of several fails because of one of them."""

import uuid

from sqlalchemy import Connection, text

from services.job_queue.claims import JSON_BYTES, LEASED, UNAWAITED, ClaimedPlanning
from services.job_queue.leases import COLUMNS


def find_ready_planning(connection: Connection, limit: int = 64) -> list[int]:
    """Return ready planning and finalizing, up to `limit` pieces of each tenant."""
    return list(
        connection.scalars(
            text("""
                SELECT next.id FROM tenants CROSS JOIN LATERAL (
                    SELECT id FROM work WHERE tenant = tenants.name AND state = 'ready' AND kind <> 'sample'
                        AND queue IN (SELECT name FROM queues WHERE NOT paused)
                    ORDER BY rank, id LIMIT :limit) AS next
            """),
            {"limit": limit},
        )
    )


def claim_work(connection: Connection, worker: uuid.UUID, work_id: int) -> list[ClaimedPlanning]:
    """Claim one piece of ready planning or finalizing, alone. Returns nothing if another process has claimed it."""
    rows = connection.execute(
        text(f"""
            UPDATE work SET {LEASED}, isolated = false WHERE id = (
                SELECT id FROM work WHERE id = :id AND state = 'ready' FOR UPDATE SKIP LOCKED)
            RETURNING {COLUMNS}, {JSON_BYTES}, {UNAWAITED}
        """),
        {"worker": worker, "id": work_id},
    )
    return [ClaimedPlanning.from_row(row) for row in rows]
