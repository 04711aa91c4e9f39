"""The heartbeat of a process: its row in the table of processes, renewed every few seconds."""

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from sqlalchemy import Engine as Database

from services.database.connections import autocommit, brief
from services.job_queue import processes
from services.job_queue.states import ProcessKind
from services.observability import logs
from services.process.threads import start_thread

log = logging.getLogger("darkroom.heartbeat")


class Heartbeat:
    """Shows other processes that this one is alive, from `start` to `stop`. They take the work of a stale one.

    held_tokens: returns the tokens of the leases that the process works on. Each beat releases every other lease of the
    process: a claim or an end whose answer was lost with a connection.
    """

    def __init__(
        self,
        database: Database,
        kind: ProcessKind,
        interval_s: float,
        held_tokens: Callable[[], Sequence[int]],
        queues: Sequence[str] | None = None,
    ) -> None:
        """queues: those that a worker serves."""
        self.database, self.kind, self.queues = autocommit(database), kind, queues
        self.interval_s, self.held_tokens = interval_s, held_tokens
        self.id = uuid.UUID(int=0)
        self.profile: str | None = None  # the execution profile of the loaded release
        self._beaten = -math.inf
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def beating(self) -> bool:
        """Whether it has started and not stopped."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat that the database has recorded."""
        return time.monotonic() - self._beaten

    def start(self) -> None:
        """Register the process under a fresh id."""
        with self.database.connect() as connection:
            self.id = processes.register(connection, self.kind, self.queues)
        logs.set_process_id(self.id)
        self._beaten = time.monotonic()
        self._thread = start_thread(self._beat, "heartbeat")

    def stop(self) -> None:
        """Release every lease that is still held, and mark the process as stopped."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        try:
            with self.database.connect() as connection:
                processes.retire(connection, self.id)
        except Exception as error:
            log.warning("could not retire (%s); a dispatcher will recover the leases", brief(error))

    def _beat(self) -> None:
        while not self._stopped.wait(self.interval_s):
            try:
                with self.database.connect() as connection:
                    processes.record_heartbeat(connection, self.id, self.profile)
                    released = processes.release_forgotten_leases(connection, self.id, self.held_tokens())
            except Exception as error:  # whatever it is, a process whose heartbeat stays away is replaced
                log.warning("heartbeat: %s", brief(error))
                continue
            self._beaten = time.monotonic()
            if released:
                log.warning("released %d leases that this process did not know of", released)
