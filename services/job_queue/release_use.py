"""Which releases the jobs that have not ended use."""

from sqlalchemy import Connection, text


def releases_in_use(connection: Connection) -> list[int]:
    """Return the ids of the releases that jobs use which have not ended."""
    query = text("SELECT DISTINCT release_id FROM jobs WHERE finished_at IS NULL AND release_id IS NOT NULL")
    return list(connection.scalars(query))


def count_open_jobs(connection: Connection, release_id: int) -> int:
    """Return how many jobs that have not ended use a release."""
    query = text("SELECT count(*) FROM jobs WHERE release_id = :id AND finished_at IS NULL")
    return int(connection.scalar(query, {"id": release_id}) or 0)
