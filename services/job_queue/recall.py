"""Searches the images of a viewer's tenant by words of their items, class, tag, seed, release and time.

No index knows the words of requests: it would slow every submission down, and a request of megabytes has no place in
one. So a search looks at the newest jobs first, a few at a time, until a page is full or its time is used up. What it
has not looked at yet is the next page.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from services.job_queue.gallery import ITEMS, item_conditions
from services.job_queue.job_filters import EVERY_JOB, JobFilter, conditions_of
from services.job_queue.seeds import PLANNED, RANGES_OF_SEED

LOOKED_AT, FIRST_LOOKED_AT = 5_000, 500  # jobs of one page; most searches end among the first ones
TIME_S = 0.2  # after which a page looks at no further jobs
# Of one statement: jobs, bytes of their requests and plans as they are stored, and images that are looked at for a seed
JOBS, BYTES, IMAGES = 200, 2**18, 50_000
ITEMS_AT_ONCE = 100  # whose images are looked for, or as many as a page has left
SLACK = timedelta(hours=1)  # between the time in a job's id and `created_at`, which may be of a longer transaction
LAST_ITEM = 2**31 - 1
LARGEST_ID = uuid.UUID(int=2**128 - 1)


@dataclass(frozen=True)
class Sought:
    """What is sought; what is left out is no condition.

    which: jobs. release_id: of a job, instead of its model. words, labels: see `ImageFilter`. seed: of an image.
    """

    which: JobFilter = EVERY_JOB
    release_id: int | None = None
    words: Sequence[str] = ()
    labels: Sequence[str] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a search continues: after an item of a job."""

    job_id: uuid.UUID = LARGEST_ID
    item: int = LAST_ITEM


@dataclass(frozen=True)
class Found:
    """An item of a job, and the first of its images that meets the search; sha256 is None if it is not stored."""

    job_id: uuid.UUID
    item: int
    fields: dict[str, Any]
    index: int
    seed: int | None
    sha256: str | None
    model: str
    tags: list[str]
    created_at: datetime


@dataclass(frozen=True)
class Page:
    """What a search has found, newest first. next: where it continues; None at the end.

    looked_to: when the oldest job was submitted that it has looked at.
    """

    found: list[Found]
    next: Place | None
    looked_to: datetime | None


# Jobs that may have such images, and the last one that was looked at. number: among those that were looked at.
LOOK = """
    SELECT id, total, bytes, created_at, is_meant, number FROM (
        SELECT id, total, pg_column_size(request) + coalesce(pg_column_size(plan), 0) AS bytes, created_at,
            coalesce(succeeded > 0 AND {where}, false) AS is_meant, row_number() OVER newest AS number,
            lead(id) OVER newest IS NULL AS is_last
        FROM (SELECT * FROM jobs WHERE id <= :from AND (id < :from OR :is_within) AND id >= :oldest
            ORDER BY id DESC LIMIT :jobs) AS jobs
        WINDOW newest AS (ORDER BY id DESC)
    ) AS looked_at WHERE is_meant OR is_last ORDER BY id DESC
"""
ITEMS_OF_JOBS = f"""
    SELECT jobs.id AS job_id, CAST(place - 1 AS integer) AS item, item AS fields, model, tags, jobs.created_at,
        coalesce(images_per_item, 1) AS per_item
    FROM jobs CROSS JOIN LATERAL {ITEMS}
    WHERE jobs.id = ANY(:ids) AND (jobs.id, -place) < (:from, -CAST(:item AS bigint) - 1)
        AND CASE WHEN {{where}} THEN true END
    ORDER BY jobs.id DESC, place LIMIT :limit
"""
# The first image of each item.
FIRST_IMAGES = """
    SELECT number, index, seed, sha256
    FROM unnest(CAST(:jobs AS uuid[]), CAST(:items AS integer[]), CAST(:per_item AS integer[])) WITH ORDINALITY
        AS wanted (job, item, per_item, number)
    CROSS JOIN LATERAL (
        SELECT index, seed, sha256 FROM outputs WHERE job_id = job AND key IS NOT NULL
            AND index >= wanted.item * wanted.per_item AND index < (wanted.item + 1) * wanted.per_item
        ORDER BY index LIMIT 1) AS made
"""
# Every image with the seed, of jobs with items of their own or in an object.
BY_SEED = f"""
    SELECT job_id, number AS item, fields, index, seed, sha256, model, tags, created_at FROM (
        SELECT planned.id AS job_id, outputs.item AS number,
            coalesce(document -> 'items' -> outputs.item, '{{{{}}}}') AS fields,
            index, seed, sha256, model, tags, planned.created_at
        FROM ({PLANNED}, id, model, tags, created_at FROM jobs WHERE id = ANY(:ids)) AS planned
        CROSS JOIN LATERAL ({RANGES_OF_SEED}) AS ranges
        JOIN outputs ON job_id = planned.id AND index >= start AND index < stop AND seed = :seed AND key IS NOT NULL
            AND (planned.id, -outputs.item) < (:from, -CAST(:item AS bigint))
    ) AS images CROSS JOIN LATERAL (SELECT fields) AS of_image (item)
    WHERE CASE WHEN {{where}} THEN true END ORDER BY job_id DESC, number, index LIMIT :limit
"""


def find_again(connection: Connection, sought: Sought, limit: int, *, after: Place | None = None) -> Page:
    """Return up to `limit` items with images, newest job first, from those that follow `after`."""
    place = after or Place()
    where, values = conditions_of(sought.which)
    if sought.release_id is not None:
        where, values = f"{where} AND release_id = :release", {**values, "release": sought.release_id}
    values |= {"from": place.job_id, "is_within": place.item < LAST_ITEM, "oldest": _first_id(sought.which.since)}
    if sought.which.until is not None and after is None:
        values["from"] = _first_id(sought.which.until + 2 * SLACK)
    deadline = time.monotonic() + TIME_S
    look = _look_at_items if sought.seed is None else _look_at_seeds
    found: list[Found] = []
    looked_to: datetime | None = None
    following: Place | None = None
    for chunk, is_end in _newest(connection, text(LOOK.format(where=where)), values):
        for jobs in _in_parts(chunk, by_seed=sought.seed is not None):
            ids = [job.id for job in jobs if job.is_meant]
            more, stop = look(connection, sought, ids, place, limit - len(found), deadline) if ids else ([], None)
            found, looked_to = found + more, jobs[-1].created_at
            if stop is None and time.monotonic() > deadline and not (is_end and jobs[-1].id == chunk[-1].id):
                stop = Place(jobs[-1].id)
            if stop is not None:
                return Page(found, stop, looked_to)
        following = None if is_end else Place(chunk[-1].id)
    return Page(found, following, looked_to)


def _newest(connection: Connection, query: TextClause, values: dict[str, Any]) -> Iterator[tuple[list[Row[Any]], bool]]:
    """Yield LOOKED_AT jobs in two chunks, newest first, and whether there are no older ones."""
    for size in (min(FIRST_LOOKED_AT, LOOKED_AT), LOOKED_AT - FIRST_LOOKED_AT):
        if size <= 0:
            return
        chunk = list(connection.execute(query, {**values, "jobs": size}))
        is_end = not chunk or chunk[-1].number < size
        yield chunk, is_end
        if is_end:
            return
        values = {**values, "from": chunk[-1].id, "is_within": False}


def _look_at_items(
    connection: Connection, sought: Sought, ids: Sequence[uuid.UUID], place: Place, limit: int, deadline: float
) -> tuple[list[Found], Place | None]:
    """Return items of jobs with their first images, and where it stopped before it had looked at all of them."""
    where, values = item_conditions(sought.words, sought.labels)
    query, found = text(ITEMS_OF_JOBS.format(where=where)), list[Found]()
    while True:
        at_once = max(ITEMS_AT_ONCE, limit - len(found))
        values |= {"ids": ids, "from": place.job_id, "item": place.item, "limit": at_once}
        items = connection.execute(query, values).all()
        wanted = {"jobs": [one.job_id for one in items], "items": [one.item for one in items],
                  "per_item": [one.per_item for one in items]}  # fmt: skip
        images = {row.number: row for row in connection.execute(text(FIRST_IMAGES), wanted)} if items else {}
        for number, item in enumerate(items, 1):
            if number not in images:
                continue
            known = {**item._mapping, **images[number]._mapping}
            found.append(Found(**{name: known[name] for name in Found.__dataclass_fields__}))
            if len(found) == limit:
                return found, Place(item.job_id, item.item)
        if len(items) < at_once:
            return found, None
        place = Place(items[-1].job_id, items[-1].item)
        if time.monotonic() > deadline:
            return found, place


def _look_at_seeds(
    connection: Connection, sought: Sought, ids: Sequence[uuid.UUID], place: Place, limit: int, deadline: float
) -> tuple[list[Found], Place | None]:
    """Return images of jobs with the seed, and where it stopped at the limit. It takes its time for all of them."""
    where, values = item_conditions(sought.words, sought.labels)
    values |= {"ids": ids, "from": place.job_id, "item": place.item, "seed": sought.seed, "limit": limit}
    rows = connection.execute(text(BY_SEED.format(where=where)), values)
    found = [Found(**row._mapping) for row in rows]
    return found, Place(found[-1].job_id, found[-1].item) if len(found) == limit else None


def _in_parts(latest: Sequence[Row[Any]], *, by_seed: bool) -> Iterator[list[Row[Any]]]:
    """Yield jobs in order, as many at a time as one statement looks at."""
    part, jobs, size, images = list[Row[Any]](), 0, 0, 0
    for job in latest:
        part.append(job)
        if job.is_meant:
            jobs, size, images = jobs + 1, size + job.bytes, images + job.total * by_seed
        if jobs >= JOBS or size >= BYTES or images >= IMAGES:
            yield part
            part, jobs, size, images = [], 0, 0, 0
    if part:
        yield part


def _first_id(since: datetime | None) -> uuid.UUID:
    """Return an id that is lower than those of jobs submitted since then: their first 48 bits are milliseconds."""
    milliseconds = 0 if since is None else int((since - SLACK).timestamp() * 1000)
    return uuid.UUID(int=max(0, min(milliseconds, 2**48 - 1)) << 80)
