"""The reasons why images of a job failed. Messages that differ only in numbers and quoted values are one reason."""

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text

LOOKED_AT = 20_000  # failed images of a job
EXAMPLES = 12  # images of a reason


@dataclass(frozen=True)
class Reason:
    """A reason: one of its messages, how many images failed for it, and the first of them with their items."""

    example: str
    images: int
    items: int
    first: list[tuple[int, int]]


def list_reasons(connection: Connection, job_id: uuid.UUID, limit: int) -> list[Reason]:
    """Return up to `limit` reasons of the first LOOKED_AT failed images of a job, the most frequent first."""
    rows = connection.execute(
        text("""
            SELECT min(error) AS example, count(*) AS images, count(DISTINCT item) AS items,
                (array_agg(jsonb_build_array(index, item) ORDER BY index))[1:CAST(:examples AS integer)] AS first
            FROM (SELECT index, item, error FROM outputs WHERE job_id = :job AND error IS NOT NULL
                  ORDER BY index LIMIT :looked_at) AS failed
            GROUP BY regexp_replace(error, '"[^"]*"|''[^'']*''|[0-9]+', '', 'g')
            ORDER BY images DESC, example LIMIT :limit
        """),
        {"job": job_id, "limit": limit, "examples": EXAMPLES, "looked_at": LOOKED_AT},
    )
    return [Reason(row.example, row.images, row.items, [tuple(one) for one in row.first]) for row in rows]
