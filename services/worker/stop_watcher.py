"""Stops held shards whose job was cancelled or is past its deadline."""

import logging
import threading
import uuid

from sqlalchemy import Engine as Database

from services.database.connections import autocommit, brief, describe
from services.job_queue import stopping
from services.job_queue.stopping import StopRequest
from services.process.threads import start_thread
from services.storage.transient import is_transient
from services.worker.held_shards import HeldShards

log = logging.getLogger("darkroom.worker")

INTERVAL_S = 1.0


class StopWatcher:
    """Asks the database every second which of the held jobs must stop."""

    def __init__(self, database: Database, shards: HeldShards) -> None:
        self.database, self.shards = autocommit(database), shards
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start watching."""
        self._thread = start_thread(self._watch, "stop-watcher")

    def stop(self) -> None:
        """Return when the thread has ended."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            job_ids = list({shard.lease.job_id for shard in self.shards.all()})
            if not job_ids:
                continue
            try:
                self._stop(self._find(job_ids))
            except Exception as error:
                log.warning("jobs to stop could not be read: %s", brief(error))
                if not is_transient(error):
                    self._stop_one_by_one(job_ids)

    def _find(self, job_ids: list[uuid.UUID]) -> list[StopRequest]:
        with self.database.connect() as connection:
            return stopping.find_stop_requests(connection, job_ids)

    def _stop(self, requests: list[StopRequest]) -> None:
        for request in requests:
            for shard in self.shards.all():
                if shard.lease.job_id == request.job_id:
                    self.shards.stop(shard, request)

    def _stop_one_by_one(self, job_ids: list[uuid.UUID]) -> None:
        """Fail an attempt of the shards whose job cannot be read, and stop the others that must stop."""
        for job_id in job_ids:
            try:
                self._stop(self._find([job_id]))
            except Exception as error:
                for shard in self.shards.all():
                    if shard.lease.job_id == job_id and not is_transient(error):
                        self.shards.fail_attempt(shard, f"its job cannot be read: {describe(error)}")
