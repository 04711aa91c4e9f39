"""The images of a job that a viewer looks at, a page at a time.

Images of an item have neighbouring indices, so a filter by items is one by ranges of the primary key: it costs the same
at the end of a job of a million images as at its beginning.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from services.job_queue.job_filters import escape_like
from services.job_queue.outputs import Output
from services.job_queue.seeds import find_ranges_of_seed
from services.job_queue.viewing import IMAGE_COLUMNS

RANGES = 500  # of one statement
MOST_INDEX = 2**31 - 1
LONGEST_TEXT = 10_000  # characters of a text in which words are sought: longer ones are images
CLASS = "class_label"

Range = tuple[int, int]  # of indices, [start, stop)


@dataclass(frozen=True)
class ImageFilter:
    """Which images of a job a gallery contains; what is left out is no condition.

    rating: the lowest. words: each is a part of some text of the item, such as its caption. labels: a class is any of
    them, as the request gives it.
    """

    failed: bool | None = None
    item: int | None = None
    seed: int | None = None
    rating: int | None = None
    words: Sequence[str] = ()
    labels: Sequence[str] = ()


EVERY_IMAGE = ImageFilter()

FATES = {None: "", True: "AND error IS NOT NULL", False: "AND error IS NULL"}  # of images, by `ImageFilter.failed`
# `seed` of a rated image is that of `outputs`, whose key is a part of the key of `ratings`.
LIST_IMAGES = """
    SELECT {columns} FROM unnest(CAST(:starts AS integer[]), CAST(:stops AS integer[])) AS ranges (start, stop)
    CROSS JOIN LATERAL (
        SELECT {columns} FROM {images} WHERE job_id = :job AND index >= start AND index < stop {fate}
            AND (CAST(:seed AS bigint) IS NULL OR seed = :seed) {rated}
        ORDER BY index {direction} LIMIT :limit) AS found
    ORDER BY index {direction} LIMIT :limit
"""


def list_images(
    connection: Connection,
    job_id: uuid.UUID,
    limit: int,
    *,
    after: int = -1,
    before: int | None = None,
    chosen: ImageFilter = EVERY_IMAGE,
) -> list[Output]:
    """Return up to `limit` settled images of a job by index: those that follow `after`, or precede `before`."""
    backwards, are_rated = before is not None, chosen.rating is not None
    statement = LIST_IMAGES.format(
        columns=IMAGE_COLUMNS,
        images="ratings JOIN outputs USING (job_id, index)" if are_rated else "outputs",
        rated="AND rating >= :rating" if are_rated else "",
        fate=FATES[chosen.failed],
        direction="DESC" if backwards else "ASC",
    )
    start, stop = (0, before) if before is not None else (after + 1, MOST_INDEX)
    found: list[Output] = []
    for ranges in _in_parts(_ranges(connection, job_id, chosen, start, stop), backwards=backwards):
        values = {
            "job": job_id, "seed": chosen.seed, "rating": chosen.rating,
            "limit": limit - len(found), "starts": [one[0] for one in ranges], "stops": [one[1] for one in ranges],
        }  # fmt: skip
        found += [Output(**row._mapping) for row in connection.execute(text(statement), values)]
        if len(found) == limit:
            break
    return found[::-1] if backwards else found


def _in_parts(ranges: Sequence[Range], *, backwards: bool) -> Iterator[Sequence[Range]]:
    ordered = ranges[::-1] if backwards else ranges
    return (ordered[start : start + RANGES] for start in range(0, len(ordered), RANGES))


def _ranges(connection: Connection, job_id: uuid.UUID, chosen: ImageFilter, start: int, stop: int) -> list[Range]:
    """Return the ranges of indices that a filter by items and seed leaves of [start, stop), in order."""
    ranges = _ranges_of_items(connection, job_id, chosen, start, stop)
    return ranges if chosen.seed is None else intersect(ranges, find_ranges_of_seed(connection, job_id, chosen.seed))


def _ranges_of_items(
    connection: Connection, job_id: uuid.UUID, chosen: ImageFilter, start: int, stop: int
) -> list[Range]:
    if chosen.item is None and not chosen.words and not chosen.labels:
        return [(start, stop)]
    per_item = images_per_item(connection, job_id)
    span = range(start // per_item, -(-stop // per_item))
    if chosen.item is not None:
        span = range(max(span.start, chosen.item), min(span.stop, chosen.item + 1))
    items: Sequence[int] = span
    if chosen.words or chosen.labels:
        items = find_matching_items(connection, job_id, chosen.words, chosen.labels, span)
    return merge_ranges((max(start, item * per_item), min(stop, (item + 1) * per_item)) for item in items)


def merge_ranges(ranges: Iterator[Range]) -> list[Range]:
    """Return sorted ranges with those that touch as one."""
    merged: list[Range] = []
    for start, stop in ranges:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def intersect(some: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """Return what is in a range of `some` and in one of the few `others`, in order."""
    parts = ((max(a[0], b[0]), min(a[1], b[1])) for b in others for a in some)
    return sorted(part for part in parts if part[0] < part[1])


def images_per_item(connection: Connection, job_id: uuid.UUID) -> int:
    """Return how many images each item of a planned job has, or 1."""
    query = text("""
        SELECT coalesce(images_per_item, CAST(CAST(plan ->> 'images_per_item' AS numeric) AS integer))
        FROM jobs WHERE id = :job
    """)
    return int(connection.scalar(query, {"job": job_id}) or 1)


def has_items(connection: Connection, job_id: uuid.UUID) -> bool:
    """Return whether a job's items are in the database; those of an `input_uri` are in an object."""
    query = text("SELECT coalesce(coalesce(plan, request) ? 'items', false) FROM jobs WHERE id = :job")
    return bool(connection.scalar(query, {"job": job_id}))


# -- items -------------------------------------------------------------------------------------

# Of an item; a word has no line feed. Texts that are long are images in base64.
HAS_WORDS = f"""(SELECT string_agg(field.value, E'\\n') FROM jsonb_each_text(item) AS field
    WHERE length(field.value) <= {LONGEST_TEXT}) {{collation}} ILIKE ALL(CAST(:patterns AS text[]))"""
ASCII = 'COLLATE "C"'  # ten times faster, and the same for words of ASCII
HAS_WORDS_SOMEWHERE = f"CAST(item AS text) {ASCII} ILIKE ALL(CAST(:patterns AS text[]))"  # most items end here
ESCAPED = frozenset('"\\')  # in JSON; a word has no control characters
HAS_CLASS = f"item ->> '{CLASS}' = ANY(CAST(:labels AS text[]))"
ITEMS = """jsonb_array_elements(CASE WHEN jsonb_typeof(coalesce(plan, request) -> 'items') = 'array'
    THEN coalesce(plan, request) -> 'items' END) WITH ORDINALITY AS items (item, place)"""


def item_conditions(words: Sequence[str], labels: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the condition that an item has the words and one of the labels, and the values of its parameters."""
    given = ["jsonb_typeof(item) = 'object'"]
    values: dict[str, Any] = {}
    if labels:
        given.append(HAS_CLASS)
        values["labels"] = list(labels)
    if words:
        if all(word.isascii() and not ESCAPED.intersection(word) for word in words):
            given.append(HAS_WORDS_SOMEWHERE)
        given.append(HAS_WORDS.format(collation=ASCII if all(map(str.isascii, words)) else ""))
        values["patterns"] = [f"%{escape_like(word)}%" for word in words]
    return " AND ".join(given), values


def find_matching_items(
    connection: Connection, job_id: uuid.UUID, words: Sequence[str], labels: Sequence[str], span: range
) -> list[int]:
    """Return the numbers in `span` of a job's items that have the words and one of the labels; none of an object."""
    where, values = item_conditions(words, labels)
    found = connection.scalars(
        text(f"SELECT CAST(place - 1 AS integer) FROM jobs CROSS JOIN LATERAL {ITEMS} WHERE id = :job "
             f"AND CASE WHEN place > :first AND place <= :last AND {where} THEN true END ORDER BY place"),
        {"job": job_id, "first": span.start, "last": span.stop, **values},
    )  # fmt: skip
    return list(found)
