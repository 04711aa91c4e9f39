"""A process's entry in the table of processes, and the thread that keeps it fresh."""

import logging
import threading
import uuid

from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database import brief
from services.job_queue import leases

log = logging.getLogger("darkroom.heartbeat")


class Heartbeat:
    """From `start` to `stop` the process is alive to the others, who take back what a silent one holds."""

    def __init__(self, database: Database, kind: str, every_s: float) -> None:
        self.database, self.kind, self.every_s = database, kind, every_s
        self.id = uuid.UUID(int=0)
        self.profile: str | None = None  # the execution profile, once there is one
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Register under a fresh id."""
        with self.database.begin() as connection:
            self.id = leases.register(connection, self.kind)
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
            except DBAPIError as error:
                log.warning("heartbeat: %s", brief(error))
