"""The subscribers to news of jobs. One thread of the process listens to Postgres for all of them.

A subscriber receives the ids of changed jobs only and reads them when it is ready, so a slow one needs no buffer.
Each connection of a browser begins with the present state, and so does the listener's, so that nothing is missed.
"""

import asyncio
import logging
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress

from sqlalchemy import Engine

from services.database.connections import brief
from services.job_queue import notifications

log = logging.getLogger("darkroom.console")

MOST_SUBSCRIBERS = 256
RETRY_S = 2.0
POLL_S, HEARTBEAT_S = 2.0, 15.0  # between looks without notifications, and with them


class Full(Exception):
    """There are too many subscribers."""


class Subscriber:
    """Waits for news of some jobs."""

    def __init__(self, jobs: Iterable[uuid.UUID]) -> None:
        self.jobs = frozenset(jobs)
        self.changed = set(self.jobs)  # at first all of them
        self._loop, self._woken = asyncio.get_running_loop(), asyncio.Event()
        self._woken.set()

    async def wait(self, timeout_s: float) -> set[uuid.UUID]:
        """Return the jobs that have changed since the last call; none after `timeout_s` seconds without news."""
        try:
            await asyncio.wait_for(self._woken.wait(), timeout_s)
        except TimeoutError:
            return set()
        self._woken.clear()
        changed, self.changed = self.changed, set()
        return changed

    def tell(self, jobs: Iterable[uuid.UUID]) -> None:
        """Tell, from any thread, that jobs have changed."""
        self._loop.call_soon_threadsafe(self._note, set(jobs) & self.jobs)

    def _note(self, jobs: set[uuid.UUID]) -> None:
        if jobs:
            self.changed |= jobs
            self._woken.set()


class News:
    """The subscribers of a process, and its listener, which starts with the first subscriber."""

    def __init__(self, database: Engine, most: int = MOST_SUBSCRIBERS) -> None:
        self._database, self._most = database, most
        self._subscribers: set[Subscriber] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.hears = False  # whether notifications arrive

    @property
    def pause_s(self) -> float:
        """After how many seconds a subscriber looks for itself."""
        return HEARTBEAT_S if self.hears else POLL_S

    def subscribe(self, jobs: Iterable[uuid.UUID]) -> Subscriber:
        """Return a subscriber, to be given to `leave` at its end. Raises Full."""
        with self._lock:
            if len(self._subscribers) >= self._most:
                raise Full
            subscriber = Subscriber(jobs)
            self._subscribers.add(subscriber)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="news", daemon=True)
                self._thread.start()
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """End a subscription."""
        with self._lock:
            self._subscribers.discard(subscriber)

    def _listen(self) -> None:
        pause = threading.Event()
        while True:
            try:
                for messages in notifications.hear(self._database.url, notifications.PROGRESS):
                    if not self.hears:
                        self.hears = True
                        self._tell(None)
                    if messages:
                        self._tell(_ids(messages))
            except notifications.NotDelivered as error:
                log.warning("%s; pages poll every %g s instead", error, POLL_S)
                return
            except Exception as error:  # Of any kind: subscribers look for themselves meanwhile.
                log.debug("live updates: %s", brief(error))
            self.hears = False
            pause.wait(RETRY_S)

    def _tell(self, jobs: set[uuid.UUID] | None) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            try:
                subscriber.tell(subscriber.jobs if jobs is None else jobs)
            except RuntimeError:  # its event loop has ended
                self.leave(subscriber)


def _ids(messages: Iterable[str]) -> set[uuid.UUID]:
    """Return the ids among messages. Every login of the database can send others."""
    found = set()
    for message in messages:
        with suppress(ValueError):
            found.add(uuid.UUID(message))
    return found
