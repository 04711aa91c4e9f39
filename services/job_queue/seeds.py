"""The images of a seed, found without an index of seeds.

An image has its item's seed + k, or else its job's seed + its index, so a plan tells which image has a seed. Where
items are in an object, any image may have it.
"""

import uuid

from sqlalchemy import Connection, text

# Of a row of `planned` (document, per_item, total): the ranges of indices that have images of :seed, if any has.
RANGES_OF_SEED = """
    SELECT CAST(index AS integer) AS start, CAST(index AS integer) + 1 AS stop FROM (
        SELECT :seed - CAST(document ->> 'seed' AS numeric) AS index WHERE document ? 'items'
        UNION
        SELECT (place - 1) * per_item + k FROM (
            SELECT place, :seed - CAST(item ->> 'seed' AS numeric) AS k FROM jsonb_array_elements(
                CASE WHEN jsonb_typeof(document -> 'items') = 'array' THEN document -> 'items' END
            ) WITH ORDINALITY AS items (item, place) WHERE item ? 'seed') AS seeded WHERE k >= 0 AND k < per_item
    ) AS indices WHERE index >= 0 AND index < total
    UNION ALL SELECT 0, total WHERE NOT (document ? 'items' AND document ? 'seed')
"""
PLANNED = """SELECT coalesce(plan, request) AS document, total,
    coalesce(images_per_item, CAST(CAST(plan ->> 'images_per_item' AS numeric) AS integer), 1) AS per_item"""


def find_ranges_of_seed(connection: Connection, job_id: uuid.UUID, seed: int) -> list[tuple[int, int]]:
    """Return ranges [start, stop) of the indices of a job that have its images of a seed, if it has any, in order."""
    query = text(f"""
        SELECT start, stop FROM ({PLANNED} FROM jobs WHERE id = :job) AS planned CROSS JOIN LATERAL ({RANGES_OF_SEED})
        AS ranges ORDER BY start
    """)
    return [(start, stop) for start, stop in connection.execute(query, {"job": job_id, "seed": seed})]
