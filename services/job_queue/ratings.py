"""Ratings of images by their tenant, from 1 to 5. The best images become an image set."""

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.job_queue.outputs import Output

BEST = 5


def rate(connection: Connection, job_id: uuid.UUID, index: int, rating: int, rated_by: str) -> bool:
    """Rate an image from 1 to BEST, or with 0 remove its rating. Returns False if the tenant has no such image."""
    values = {"job": job_id, "index": index, "rating": rating, "by": rated_by}
    if rating == 0:
        connection.execute(text("DELETE FROM ratings WHERE job_id = :job AND index = :index"), values)
        query = text("SELECT count(*) FROM outputs WHERE job_id = :job AND index = :index AND key IS NOT NULL")
        return bool(connection.scalar(query, values))
    result = connection.execute(
        text("""
            INSERT INTO ratings (tenant, job_id, index, rating, rated_by)
            SELECT current_tenant(), job_id, index, :rating, :by FROM outputs
            WHERE job_id = :job AND index = :index AND key IS NOT NULL
            ON CONFLICT (job_id, index) DO UPDATE
            SET rating = excluded.rating, rated_by = excluded.rated_by, rated_at = now()
        """),
        values,
    )
    return result.rowcount == 1


def find_ratings(connection: Connection, job_id: uuid.UUID, first: int, last: int) -> dict[int, int]:
    """Return the ratings of the images first to last of a job by index."""
    query = text("SELECT index, rating FROM ratings WHERE job_id = :job AND index BETWEEN :first AND :last")
    rows = connection.execute(query, {"job": job_id, "first": first, "last": last})
    return {index: int(rating) for index, rating in rows}


def count_ratings(connection: Connection, job_id: uuid.UUID, least: int = 1) -> int:
    """Return how many images of a job are rated `least` or better."""
    query = text("SELECT count(*) FROM ratings WHERE job_id = :job AND rating >= :least")
    return int(connection.execute(query, {"job": job_id, "least": least}).scalar_one())


@dataclass(frozen=True)
class Pick:
    """An image, its rating, and who gave it."""

    image: Output
    rating: int
    rated_by: str


def list_picks(connection: Connection, job_id: uuid.UUID, least: int, after: int, limit: int) -> list[Pick]:
    """Return up to `limit` images of a job that are rated `least` or better, by index from the one after `after`."""
    rows = connection.execute(
        text("""
            SELECT rating, rated_by, index, item, seed, key, sha256, bytes, profile, error
            FROM ratings JOIN outputs USING (job_id, index)
            WHERE job_id = :job AND rating >= :least AND index > :after AND key IS NOT NULL ORDER BY index LIMIT :limit
        """),
        {"job": job_id, "least": least, "after": after, "limit": limit},
    )
    return [Pick(Output(*image), rating, rated_by) for rating, rated_by, *image in rows]
