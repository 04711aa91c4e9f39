"""Retention: jobs past their tenant's time go with all that they left in S3, and blobs that no release needs.

What is interrupted is done again: a job's row goes in the same transaction in which its objects were deleted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text
from sqlalchemy import Engine as Database

from services.storage.layout import BLOBS, BLOBS_LOCK, blob_key, job_prefix
from services.storage.object_store import ObjectStore

FORGOTTEN_AFTER = "interval '7 days'"
EXPIRED = """
    jobs.finished_at < now() - make_interval(days => tenants.retention_days) AND tenants.name = jobs.tenant
"""


@dataclass(frozen=True)
class PrunedJob:
    """A job that is no more."""

    id: str
    tenant: str
    images: int


def expired_jobs(connection: Connection) -> list[PrunedJob]:
    """Jobs past their retention, the oldest first."""
    rows = connection.execute(
        text(f"SELECT jobs.id, tenant, succeeded FROM jobs, tenants WHERE {EXPIRED} ORDER BY jobs.id")
    )
    return [PrunedJob(str(row.id), row.tenant, row.succeeded) for row in rows]


def prune_jobs(database: Database, store: ObjectStore) -> Iterator[PrunedJob]:
    """Delete the jobs past their retention, with their outputs; each as it is gone."""
    with database.connect() as connection:
        expired = expired_jobs(connection)
    for job in expired:
        with database.begin() as connection:
            # Asked again here: a job that is being tried again has not ended any more.
            plan = connection.execute(
                text(f"DELETE FROM jobs USING tenants WHERE jobs.id = :id AND {EXPIRED} RETURNING jobs.id, plan"),
                {"id": job.id},
            ).first()
            if plan is None:
                continue
            connection.execute(text("DELETE FROM outputs WHERE job_id = :id"), {"id": job.id})
            if plan.plan is not None:
                store.delete(store.keys(f"{job_prefix(plan.plan, plan.id)}/"))
        yield job


def unreferenced_blobs(connection: Connection, store: ObjectStore, older_than: timedelta) -> list[str]:
    """Keys of blobs that belong to no release and have been there for so long."""
    digests = connection.scalars(
        text("SELECT DISTINCT file.value ->> 'sha256' FROM releases, jsonb_each(manifest -> 'files') AS file")
    )
    needed = {blob_key(digest) for digest in digests}
    latest = datetime.now(UTC) - older_than
    return [key for key in store.keys(f"{BLOBS}/", before=latest) if key not in needed]


def prune_blobs(database: Database, store: ObjectStore, older_than: timedelta) -> int | None:
    """Delete blobs that no release needs. Returns how many, or None while a release is being published.

    A publish may count on a blob that it finds, so none begins meanwhile.
    """
    with database.begin() as connection:
        if not connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({BLOBS_LOCK})")):
            return None
        keys = unreferenced_blobs(connection, store, older_than)
        store.delete(keys)
        return len(keys)


def prune_processes(database: Database) -> int:
    """Forget processes that ended long ago. Returns how many."""
    with database.begin() as connection:
        return connection.execute(
            text(f"""
                DELETE FROM workers WHERE coalesce(stopped_at, heartbeat_at) < now() - {FORGOTTEN_AFTER}
                AND NOT EXISTS (SELECT FROM work WHERE owner = workers.id AND state = 'leased')
            """)
        ).rowcount
