"""The releases that jobs in progress use."""

from sqlalchemy import Connection, text


def releases_in_use(connection: Connection) -> list[int]:
    """Return the ids of the releases that jobs use which have not ended."""
    query = text("""
        SELECT release_id FROM jobs WHERE finished_at IS NULL AND release_id IS NOT NULL
        UNION SELECT job_stages.release_id FROM job_stages JOIN jobs ON jobs.id = job_id WHERE finished_at IS NULL
    """)
    return list(connection.scalars(query))


def count_open_jobs(connection: Connection, release_id: int) -> int:
    """Return how many jobs that have not ended use a release."""
    query = text("""
        SELECT count(*) FROM jobs WHERE finished_at IS NULL AND (release_id = :id
            OR EXISTS (SELECT FROM job_stages WHERE job_id = jobs.id AND job_stages.release_id = :id))
    """)
    return int(connection.scalar(query, {"id": release_id}) or 0)
