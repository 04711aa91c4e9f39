"""Stops held shards whose job was cancelled or is past its deadline."""

import logging
import threading

from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.job_queue import stopping
from services.worker.held_shards import HeldShards

log = logging.getLogger("darkroom.worker")

INTERVAL_S = 1.0


class StopWatcher:
    """Asks the database every second which of the held jobs must stop."""

    def __init__(self, database: Database, shards: HeldShards) -> None:
        self.database, self.shards = database, shards
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watcher", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            held = self.shards.all()
            if not held:
                continue
            try:
                with self.database.begin() as connection:
                    requests = stopping.find_stop_requests(connection, list({shard.lease.job_id for shard in held}))
            except DBAPIError as error:
                log.warning("database: %s", brief(error))
                continue
            for request in requests:
                for shard in held:
                    if shard.lease.job_id == request.job_id:
                        self.shards.stop(shard, request)
