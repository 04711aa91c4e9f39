"""A process's entry in the table of processes, kept fresh; and the end of a process that hangs."""

import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services import logs
from services.database import brief
from services.job_queue import leases

log = logging.getLogger("darkroom.heartbeat")

EXIT_HUNG = 70  # EX_SOFTWARE of sysexits.h


class Heartbeat:
    """From `start` to `stop` the process is alive to the others, who take back what a silent one holds.

    known: the tokens of the leases that the process works on; what else is leased to it is given back.
    """

    def __init__(self, database: Database, kind: str, every_s: float, known: Callable[[], Sequence[int]]) -> None:
        self.database, self.kind, self.every_s, self.known = database, kind, every_s, known
        self.id = uuid.UUID(int=0)
        self.profile: str | None = None  # the execution profile, once there is one
        self._beaten = -math.inf
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def beating(self) -> bool:
        """Whether it has begun and not ended."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the database last heard of this process."""
        return time.monotonic() - self._beaten

    def start(self) -> None:
        """Register under a fresh id."""
        with self.database.begin() as connection:
            self.id = leases.register(connection, self.kind)
        logs.identify(self.id)
        self._beaten = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Give back what is still held, and end."""
        self._stopped.set()
        self._thread.join()
        try:
            with self.database.begin() as connection:
                leases.retire(connection, self.id)
        except DBAPIError as error:
            log.warning("could not retire (%s); leases will be taken back when the heartbeat is stale", brief(error))

    def _beat(self) -> None:
        while not self._stopped.wait(self.every_s):
            try:
                with self.database.begin() as connection:
                    leases.heartbeat(connection, self.id, self.profile)
                    forgotten = leases.give_back_forgotten(connection, self.id, self.known())
            except DBAPIError as error:
                log.warning("heartbeat: %s", brief(error))
                continue
            self._beaten = time.monotonic()
            if forgotten:
                log.warning("%d leases that this process did not know of are given back", forgotten)


class Watchdog:
    """Ends the process when its loop has not ticked for `limit_s`: a kernel that hangs never returns."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._ticked = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """From now on the loop must tick."""
        self.tick()
        self._thread.start()

    @property
    def silent_s(self) -> float:
        """Seconds since the loop last came round; below 0 while it may take as long as it likes."""
        return time.monotonic() - self._ticked

    def tick(self) -> None:
        """The loop goes on."""
        self._ticked = time.monotonic()

    def pause(self) -> None:
        """Until the next tick it may take as long as it likes."""
        self._ticked = math.inf

    def stop(self) -> None:
        """The loop may end."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.limit_s / 4)):
            if self.silent_s > self.limit_s:
                log.critical("nothing has moved for %.0f s; ending this process", self.limit_s)
                os._exit(EXIT_HUNG)
