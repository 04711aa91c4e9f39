"""Changes of jobs that clients have requested: priority, deadline, tags, pause and resume.

One call moves up to MAX_SHARDS pieces of a job's waiting work, so its duration does not depend on the size of the job.
"""

import uuid
from enum import StrEnum

from sqlalchemy import Connection, text

MAX_JOBS = 500  # jobs of one round
MAX_SHARDS = 2_000  # pieces of work of one transaction


class Applied(StrEnum):
    """What became of a request. WAITING: the job is locked, or is to pause and has work under way."""

    DONE = "done"
    MORE = "more"
    WAITING = "waiting"


def find_change_requests(connection: Connection) -> list[uuid.UUID]:
    """Return up to MAX_JOBS jobs that are to be changed now. Tenants take turns."""
    query = text("""
        SELECT job_id FROM change_requests LEFT JOIN jobs ON jobs.id = job_id WHERE due_at <= now()
        ORDER BY row_number() OVER (PARTITION BY tenant ORDER BY due_at, job_id), job_id LIMIT :limit
    """)
    return list(connection.scalars(query, {"limit": MAX_JOBS}))


def apply_change(connection: Connection, job_id: uuid.UUID) -> Applied:
    """Change a job as was asked, and move up to MAX_SHARDS pieces of its waiting work to where they belong now.

    A job that another transaction has locked keeps its request. Of a job that has ended only the tags change.
    """
    query = text("SELECT apply_change(:id, :most)")
    return Applied(connection.execute(query, {"id": job_id, "most": MAX_SHARDS}).scalar_one())


def drop_change_request(connection: Connection, job_id: uuid.UUID) -> None:
    """Forget a request that cannot be applied."""
    connection.execute(text("DELETE FROM change_requests WHERE job_id = :id"), {"id": job_id})
