"""A worker process: its parts, its start and its end.

Threads: one samples, one claims shards, a few read the items of the next ones, many encode and upload images, two
settle them, one listens for announcements of work, one keeps the heartbeat, one looks for jobs that must stop, one
annotates the pod if it should, and one ends the process if the sampling thread hangs. If one of them fails, but for the
annotations, the process ends.
"""

import logging
import threading

from sqlalchemy import Engine as Database

from services.database.connections import autocommit
from services.job_queue.queues import queue_names
from services.job_queue.states import ProcessKind
from services.observability import metrics
from services.process.health import Health
from services.process.heartbeat import Heartbeat
from services.process.listener import Listener
from services.process.watchdog import Watchdog
from services.settings import Settings
from services.storage.object_store import ObjectStore
from services.worker.deletion_cost import DeletionCost
from services.worker.held_shards import HeldShards
from services.worker.sampling_loop import SamplingLoop
from services.worker.stop_watcher import StopWatcher

log = logging.getLogger("darkroom.worker")


class Worker:
    """One worker process. `start` returns at once; `stop` drains and returns when every shard has ended."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore) -> None:
        self.settings = settings
        self._database = database = autocommit(database)  # a worker that freezes between two statements holds no lock
        self._wake = threading.Event()
        shards = HeldShards(database, on_removed=self._wake.set)
        instead = f"hints, and polling every {settings.poll_s:g} s,"
        self._listener = Listener(database, self.wake, queues=settings.queues, instead=instead)
        self.watchdog = Watchdog(settings.step_limit_s)
        self.heartbeat = Heartbeat(database, ProcessKind.WORKER, settings.heartbeat_s, shards.tokens, settings.queues)
        self._stop_watcher = StopWatcher(database, shards)
        self._cost = DeletionCost(settings.pod, lambda: len(shards)) if settings.pod else None
        self._loop = SamplingLoop(settings, database, store, shards, self.heartbeat, self.watchdog, self._wake)
        self.health = Health(
            self.heartbeat, self.watchdog, settings.stale_s, self._loop.preload.pending, self._loop.backoff.problems
        )

    def start(self) -> None:
        """Register the process and start to claim work."""
        for queue in self.settings.queues:
            metrics.SERVES.labels(queue).set(1)
        self.heartbeat.start()
        self._warn_of_missing_queues()
        log.info("worker %s serves queues %s", self.heartbeat.id, ", ".join(self.settings.queues))
        self._loop.start()
        self._stop_watcher.start()
        self._listener.start()
        if self._cost:
            self._cost.start()

    def _warn_of_missing_queues(self) -> None:
        """Log the queues that do not exist yet: from a misspelt one no work ever comes."""
        with self._database.connect() as connection:
            known = queue_names(connection)
        for queue in sorted(set(self.settings.queues).difference(known)):
            log.warning(
                "DARKROOM_QUEUES: queue %r does not exist; there are: %s. Add it with: darkroom queues add %s",
                queue,
                ", ".join(known),
                queue,
            )

    def wake(self) -> None:
        """Look for work now: a hint or an announcement has arrived."""
        self._loop.announce()

    def stop(self) -> None:
        """Claim no more work, finish what fits the drain time, and return the rest to the queue."""
        self.health.draining = True
        if self._cost:
            self._cost.stop()
        self._listener.stop()
        self._loop.stop()
        self._stop_watcher.stop()
        self.heartbeat.stop()
        log.info("worker %s stopped", self.heartbeat.id)
