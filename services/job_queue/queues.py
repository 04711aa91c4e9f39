"""Queues: named lines of work that an operator can pause."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.job_queue.notifications import CHANNEL


@dataclass(frozen=True)
class Queue:
    """A queue and how much work of it waits (ready or delayed) and is leased."""

    name: str
    paused: bool
    waiting: int
    leased: int


def queue_names(connection: Connection) -> list[str]:
    """Return the names of all queues."""
    return list(connection.scalars(text("SELECT name FROM queues ORDER BY name")))


def list_queues(connection: Connection) -> list[Queue]:
    """Return every queue with its counts, by name."""
    rows = connection.execute(
        text("""
            SELECT name, paused,
                (SELECT count(*) FROM work WHERE queue = name AND state IN ('ready', 'delayed')) AS waiting,
                (SELECT count(*) FROM work WHERE queue = name AND state = 'leased') AS leased
            FROM queues ORDER BY name
        """)
    )
    return [Queue(**row._mapping) for row in rows]


def paused_queues(connection: Connection) -> dict[str, bool]:
    """Return of each queue whether it is paused."""
    return {row.name: row.paused for row in connection.execute(text("SELECT name, paused FROM queues"))}


def queues_with_work(connection: Connection) -> list[str]:
    """Return the names of the queues from which a worker could claim a shard now."""
    return list(
        connection.scalars(
            text("""
                SELECT name FROM queues WHERE NOT paused AND EXISTS (
                    SELECT FROM work WHERE queue = queues.name AND state = 'ready' AND kind = 'sample')
                ORDER BY name
            """)
        )
    )


def add_queues(connection: Connection, names: Iterable[str]) -> None:
    """Add queues; names that exist are left unchanged."""
    for name in names:
        connection.execute(text("INSERT INTO queues (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name})


def set_paused(connection: Connection, name: str, *, paused: bool) -> bool:
    """Pause or resume a queue and notify the dispatchers. Returns False if no queue has this name."""
    result = connection.execute(
        text("UPDATE queues SET paused = :paused WHERE name = :name"), {"paused": paused, "name": name}
    )
    if result.rowcount == 0:
        return False
    connection.execute(text(f"NOTIFY {CHANNEL}"))
    return True
