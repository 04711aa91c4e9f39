"""Retention: delete jobs past their tenant's retention with everything they stored, and blobs that no release needs.

A job is marked first, then its objects are deleted, then its rows. No transaction waits for S3, and an interrupted run
continues next time.
"""

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

from sqlalchemy import Connection
from sqlalchemy import Engine as Database

from services.job_queue import expiry, processes, tenants
from services.job_queue.expiry import ExpiredJob, StoredJob
from services.job_requests.output_options import NAME
from services.registry import locks, releases
from services.storage.layout import BLOBS, STAGES, SUFFIXES, blob_key, job_prefix
from services.storage.object_store import ObjectStore

# The names of the objects that a job writes next to its images.
LISTING = re.compile(r"(outputs|errors)[-.\w]*\.jsonl|archive-[-\w]*\.(tar|parquet)|manifest\.json", re.ASCII)
STAGE_IMAGE = re.compile(r"(-r[0-9]+)?/[0-9]/[0-9]{8,}\.png", re.ASCII)
UNPACKED = re.compile(r"input-[0-9]+\.jsonl?", re.ASCII)
BLOBS_TOGETHER = 1_000  # deleted while no release may be published


def prune_jobs(database: Database, store: ObjectStore) -> Iterator[ExpiredJob]:
    """Delete the jobs past their retention with their outputs. Yields each job after it is deleted."""
    for job in list_expired(database):
        with database.begin() as connection:
            stored = expiry.mark_expired(connection, job.id)
        if stored is None:  # it was retried meanwhile
            continue
        store.delete(_objects(store, job.id, stored))
        with database.begin() as connection:
            last = expiry.last_output(connection, job.id)
        for start in range(0, last + 1, expiry.BATCH):
            with database.begin() as connection:
                expiry.delete_outputs(connection, job.id, start, start + expiry.BATCH)
        with database.begin() as connection:
            expiry.delete_marked(connection, job.id)
        yield job


def list_expired(database: Database) -> Iterator[ExpiredJob]:
    """Yield the jobs past their retention, the oldest first, in pages."""
    after: list[uuid.UUID] = []
    while True:
        with database.connect() as connection:
            page = expiry.expired_jobs(connection, *after)
        yield from page
        if len(page) < expiry.PAGE:
            return
        after = [page[-1].id]


def _objects(store: ObjectStore, job_id: uuid.UUID, stored: StoredJob) -> Iterator[str]:
    """Yield the keys that a job can have written. Its folder may contain folders of other jobs."""
    suffix = SUFFIXES.get(stored.image_format or "", "[a-z]+")
    image = re.compile(rf"{NAME.pattern if stored.has_names else '[0-9]{8,}'}\.{suffix}")
    for prefix, folder, name in (
        (stored.output_prefix, "", LISTING),
        (stored.output_prefix, "images/", image),
        (stored.output_prefix, "thumbnails/", image),
        (stored.unpacked_prefix, "", UNPACKED),
        (stored.output_prefix, STAGES, STAGE_IMAGE),  # in a folder for each revision
    ):
        if prefix is None:
            continue
        path = f"{job_prefix(prefix, job_id)}/{folder}"
        for key in store.keys(path, direct=folder != STAGES):
            if name.fullmatch(key.removeprefix(path)):
                yield key


def prune_stages(database: Database, store: ObjectStore) -> int:
    """Delete the images of stages of chains that have ended and do not keep them. Returns how many.

    Their rows go first: a job that is tried again makes them again, elsewhere.
    """
    deleted = 0
    while True:
        with database.begin() as connection:
            keys = expiry.forget_stage_images(connection)
        if not keys:
            return deleted
        store.delete(keys)
        deleted += len(keys)


def unreferenced_blobs(connection: Connection, store: ObjectStore, older_than: timedelta) -> list[str]:
    """Return the keys of blobs that no release needs and that were stored at least `older_than` ago."""
    needed = {blob_key(digest) for digest in releases.referenced_files(connection, older_than)}
    latest = datetime.now(UTC) - older_than
    return [key for key in store.keys(f"{BLOBS}/", before=latest) if key not in needed]


def prune_blobs(database: Database, store: ObjectStore, older_than: timedelta) -> int | None:
    """Delete blobs that no release needs. Returns how many, or None while a release is being published.

    A publisher does not store a blob that exists already. So no release may be published while a batch is deleted,
    and each batch is compared with the releases once more.
    """
    with database.connect() as connection:
        keys = unreferenced_blobs(connection, store, older_than)
    rest, deleted = iter(keys), 0
    while group := list(islice(rest, BLOBS_TOGETHER)):
        with database.begin() as connection:
            if not locks.try_lock_blobs(connection):
                return deleted or None
            needed = {blob_key(digest) for digest in releases.referenced_files(connection, older_than)}
            unneeded = [key for key in group if key not in needed]
            store.delete(unneeded)
        deleted += len(unneeded)
    return deleted


def abort_uploads(database: Database, store: ObjectStore, older_than: timedelta) -> int:
    """Abort multipart uploads that killed processes left at least `older_than` ago. Returns how many."""
    with database.connect() as connection:
        prefixes = {prefix for tenant in tenants.list_tenants(connection) for prefix in tenant.write_prefixes}
    latest = datetime.now(UTC) - older_than
    return sum(store.abort_uploads(f"{prefix}/", before=latest) for prefix in {BLOBS, *prefixes})


def prune_processes(database: Database) -> int:
    """Delete the rows of processes that stopped long ago. Returns how many."""
    with database.begin() as connection:
        return processes.prune_processes(connection)
