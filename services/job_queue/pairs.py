"""Images that two jobs have made of the same item with the same seed."""

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class Pair:
    """Two images of one index; sha256 is None of one that failed."""

    index: int
    item: int
    seed: int
    left: str | None
    right: str | None


def list_pairs(
    connection: Connection, left: uuid.UUID, right: uuid.UUID, limit: int, *, after: int = -1, before: int | None = None
) -> list[Pair]:
    """Return up to `limit` pairs by index: those that follow `after`, or precede `before`."""
    backwards = before is not None
    rows = connection.execute(
        text(f"""
            SELECT a.index, a.item, a.seed, a.sha256 AS left, b.sha256 AS right
            FROM outputs AS a JOIN outputs AS b ON b.job_id = :right AND b.index = a.index AND b.item = a.item
                AND b.seed = a.seed
            WHERE a.job_id = :left AND a.index {"<" if backwards else ">"} :bound
            ORDER BY a.index {"DESC" if backwards else "ASC"} LIMIT :limit
        """),
        {"left": left, "right": right, "bound": before if backwards else after, "limit": limit},
    )
    found = [Pair(*row) for row in rows]
    return found[::-1] if backwards else found


def have_same_items(connection: Connection, left: uuid.UUID, right: uuid.UUID) -> bool:
    """Return whether the requests of two jobs name the same items."""
    query = text("""
        SELECT a.request -> 'items' IS NOT DISTINCT FROM b.request -> 'items'
            AND a.request -> 'input_uri' IS NOT DISTINCT FROM b.request -> 'input_uri'
        FROM jobs AS a, jobs AS b WHERE a.id = :left AND b.id = :right
    """)
    return bool(connection.scalar(query, {"left": left, "right": right}))
