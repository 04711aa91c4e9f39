"""Releases that are to be in memory before the first job asks for them."""

import logging
import time
from collections.abc import Sequence

from sqlalchemy import Engine as Database

from services.database.connections import brief
from services.process.watchdog import Watchdog
from services.registry import releases
from services.worker.engine_cache import EngineCache

log = logging.getLogger("darkroom.preload")

AGAIN_S = 15.0


class Preload:
    """`left`: references that are not loaded yet, and why. What fails is tried again while there is nothing to do."""

    def __init__(self, references: Sequence[str], database: Database, engines: EngineCache) -> None:
        self.left = dict.fromkeys(references, "its turn has not come")
        self.database, self.engines = database, engines
        self._from = 0.0

    def go_on(self, watchdog: Watchdog) -> None:
        """Load what is left, if it is time to. A name that is not there yet, or S3 that is away, stops nobody."""
        if not self.left or time.monotonic() < self._from:
            return
        for reference in list(self.left):
            watchdog.pause()  # fetching has its own time-outs
            try:
                with self.database.begin() as connection:
                    manifest = releases.find(connection, reference).manifest
                self.engines.get(manifest)
                del self.left[reference]
            except Exception as error:
                self.left[reference] = brief(error)
                log.warning("%s cannot be loaded: %s", reference, brief(error))
            watchdog.tick()
        self._from = time.monotonic() + AGAIN_S
