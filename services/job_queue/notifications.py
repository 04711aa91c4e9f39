"""The Postgres channels on which new work is announced."""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from sqlalchemy import URL

from services.database.connections import connect_directly, is_pooled
from training.errors import DarkroomError

# Triggers and functions of the migrations notify these channels.
CHANNEL = "darkroom_work"  # what dispatchers do
SHARDS = "darkroom_shards"  # what workers do; the message is the queue
PROGRESS = "darkroom_progress"  # ids of watched jobs that have changed
DELIVERY_TIMEOUT_S = 3.0


class NotDelivered(DarkroomError):
    """A pooler in transaction mode is between this process and Postgres, and delivers no notifications."""


def listen(url: URL, queues: Sequence[str] | None = None, timeout_s: float = 1.0) -> Iterator[bool]:
    """Yield True for each announcement of work, and False after each `timeout_s` seconds without one.

    queues: those whose shards are announced; None for work of dispatchers. Raises what `hear` raises.
    """
    for messages in hear(url, CHANNEL if queues is None else SHARDS, timeout_s):
        yield any(queues is None or message in queues for message in messages)


def hear(url: URL, channel: str, timeout_s: float = 1.0) -> Iterator[list[str]]:
    """Yield the messages of a channel that arrive together, and none after each `timeout_s` seconds without one.

    Raises NotDelivered behind a pooler in transaction mode, and psycopg.Error when the connection cannot be made or is
    lost.
    """
    with connect_directly(url, autocommit=True) as connection:
        connection.execute(f"LISTEN {channel}")
        if is_pooled(connection) and not _delivers(connection, url, channel):
            raise NotDelivered("notifications do not arrive through a pooler in transaction mode")
        while True:
            yield [notification.payload for notification in connection.notifies(timeout=timeout_s, stop_after=1)]


def _delivers(connection: "psycopg.Connection[Any]", url: URL, channel: str) -> bool:
    """Return whether this connection hears what another one announces."""
    with connect_directly(url, autocommit=True) as other:
        other.execute(f"NOTIFY {channel}")
    return any(connection.notifies(timeout=DELIVERY_TIMEOUT_S, stop_after=1))
