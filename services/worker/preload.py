"""Releases that a worker loads before it is ready."""

import logging
import time
from collections.abc import Sequence

from sqlalchemy import Engine as Database

from services.database.connections import brief
from services.process.watchdog import Watchdog
from services.registry import releases
from services.worker.device_faults import DeviceFault
from services.worker.engine_cache import EngineCache

log = logging.getLogger("darkroom.preload")

RETRY_INTERVAL_S = 15.0


class Preload:
    """Loads releases into the engine cache while the worker has nothing else to do, and retries what fails.

    pending: references that are not loaded yet, and why.
    """

    def __init__(self, references: Sequence[str], database: Database, engines: EngineCache) -> None:
        self.pending = dict.fromkeys(references, "not tried yet")
        self.database, self.engines = database, engines
        self._next_try = 0.0

    def load_pending(self, watchdog: Watchdog) -> None:
        """Try to load every pending release, at most once in RETRY_INTERVAL_S. Logs errors, raises only DeviceFault."""
        if not self.pending or time.monotonic() < self._next_try:
            return
        for reference in list(self.pending):
            watchdog.pause()  # a download has timeouts of its own
            try:
                with self.database.begin() as connection:
                    manifest = releases.find(connection, reference).manifest
                self.engines.get(manifest)
                del self.pending[reference]
            except DeviceFault:
                raise
            except Exception as error:
                self.pending[reference] = brief(error)
                log.warning("%s cannot be loaded: %s", reference, brief(error))
            watchdog.tick()
        self._next_try = time.monotonic() + RETRY_INTERVAL_S
