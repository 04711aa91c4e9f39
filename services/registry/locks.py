"""Locks of the registry: rows of `service_locks`, which end with their transaction and which no client can reach."""

from sqlalchemy import Connection, text

BLOBS = "blobs"  # shared by publishers, exclusive to the pruner of blobs
PROMOTION = "promotion"  # of versions and aliases


def lock_names(connection: Connection) -> None:
    """Keep others from publishing versions, moving aliases and retiring releases until this transaction ends."""
    connection.execute(text("SELECT FROM service_locks WHERE name = :name FOR UPDATE"), {"name": PROMOTION})


def keep_blobs(connection: Connection) -> None:
    """Keep blobs from being deleted until this transaction ends."""
    connection.execute(text("SELECT FROM service_locks WHERE name = :name FOR SHARE"), {"name": BLOBS})


def try_lock_blobs(connection: Connection) -> bool:
    """Keep releases from being published until this transaction ends. Returns False while one is being published."""
    query = text("SELECT true FROM service_locks WHERE name = :name FOR UPDATE SKIP LOCKED")
    return bool(connection.scalar(query, {"name": BLOBS}))
