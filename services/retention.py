"""Retention: delete jobs past their tenant's retention with everything they stored, and blobs that no release needs.

An interrupted run continues next time: a job's rows are deleted in the transaction that deletes its objects.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection
from sqlalchemy import Engine as Database

from services.job_queue import expiry, processes
from services.job_queue.expiry import ExpiredJob
from services.registry import releases
from services.storage.layout import BLOBS, blob_key, job_prefix
from services.storage.object_store import ObjectStore


def prune_jobs(database: Database, store: ObjectStore) -> Iterator[ExpiredJob]:
    """Delete the jobs past their retention with their outputs. Yields each job after it is deleted."""
    with database.connect() as connection:
        expired = expiry.expired_jobs(connection)
    for job in expired:
        with database.begin() as connection:
            deleted = expiry.delete_expired_job(connection, job.id)
            if deleted is None:
                continue
            if deleted.plan is not None:
                store.delete(store.keys(f"{job_prefix(deleted.plan['output_prefix'], deleted.id)}/"))
        yield job


def unreferenced_blobs(connection: Connection, store: ObjectStore, older_than: timedelta) -> list[str]:
    """Return the keys of blobs that belong to no release and were stored at least `older_than` ago."""
    needed = {blob_key(digest) for digest in releases.referenced_files(connection)}
    latest = datetime.now(UTC) - older_than
    return [key for key in store.keys(f"{BLOBS}/", before=latest) if key not in needed]


def prune_blobs(database: Database, store: ObjectStore, older_than: timedelta) -> int | None:
    """Delete blobs that no release needs. Returns how many, or None while a release is being published.

    A publisher does not store a blob that exists already, so no release may be published meanwhile.
    """
    with database.begin() as connection:
        if not releases.try_lock_blobs(connection):
            return None
        keys = unreferenced_blobs(connection, store, older_than)
        store.delete(keys)
        return len(keys)


def prune_processes(database: Database) -> int:
    """Delete the rows of processes that stopped long ago. Returns how many."""
    with database.begin() as connection:
        return processes.prune_processes(connection)
