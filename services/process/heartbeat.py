"""A process's entry in the table of processes, kept fresh; and the end of a process that hangs."""

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.job_queue import processes
from services.job_queue.states import ProcessKind
from services.observability import logs

log = logging.getLogger("darkroom.heartbeat")


class Heartbeat:
    """From `start` to `stop` the process is alive to the others, who take back what a silent one holds.

    known: the tokens of the leases that the process works on; what else is leased to it is given back.
    """

    def __init__(
        self, database: Database, kind: ProcessKind, every_s: float, known: Callable[[], Sequence[int]]
    ) -> None:
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
            self.id = processes.register(connection, self.kind)
        logs.identify(self.id)
        self._beaten = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Give back what is still held, and end."""
        self._stopped.set()
        self._thread.join()
        try:
            with self.database.begin() as connection:
                processes.retire(connection, self.id)
        except DBAPIError as error:
            log.warning("could not retire (%s); leases will be taken back when the heartbeat is stale", brief(error))

    def _beat(self) -> None:
        while not self._stopped.wait(self.every_s):
            try:
                with self.database.begin() as connection:
                    processes.record_heartbeat(connection, self.id, self.profile)
                    forgotten = processes.release_forgotten_leases(connection, self.id, self.known())
            except DBAPIError as error:
                log.warning("heartbeat: %s", brief(error))
                continue
            self._beaten = time.monotonic()
            if forgotten:
                log.warning("%d leases that this process did not know of are given back", forgotten)
