"""Loaded releases: as many as fit the memory for models, the one that was used longest ago leaves first."""

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from services.observability import metrics
from services.registry import release_cache
from services.settings import Settings
from services.storage.object_store import ObjectStore
from services.worker.engine import Engine

log = logging.getLogger("darkroom.engines")

FEWEST_ROWS = 2


class EngineCache:
    """Engines by the digest of their release."""

    def __init__(self, store: ObjectStore, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.rows = settings.rows
        self._engines: OrderedDict[str, Engine] = OrderedDict()

    def get(self, manifest: Mapping[str, Any]) -> Engine:
        """The engine of a release, fetched from S3 and loaded unless it is here. Raises what makes that impossible."""
        digest = manifest["digest"]
        if digest in self._engines:
            self._engines.move_to_end(digest)
            return self._engines[digest]
        began = time.monotonic()
        size = sum(record["bytes"] for record in manifest["files"].values())
        while self._engines and self._held() + size > self.settings.model_memory_gb * 2**30:
            _, engine = self._engines.popitem(last=False)
            log.info("%s leaves", engine.release.name)
            del engine  # the old model's memory goes before the new one's is taken
        folder = release_cache.fetch(self.store, manifest, self.settings.cache_dir, self.settings.cache_gb)
        engine = Engine(folder, rows=self.rows, device=self.settings.device)
        self._engines[digest] = engine
        metrics.LOAD_SECONDS.observe(time.monotonic() - began)
        metrics.RELEASES_LOADED.set(len(self._engines))
        metrics.ROWS.set(self.rows)
        log.info("loaded %s in %.1f s; profile %s", engine.release.name, time.monotonic() - began, engine.profile)
        return engine

    def shrink(self, engine: Engine) -> int | None:
        """After running out of memory: all engines have half the rows from now on. None if there are no fewer."""
        self._engines.clear()
        engine.close()
        metrics.PROFILE_SHRINKS.inc()
        if self.rows // 2 < FEWEST_ROWS:
            return None
        self.rows //= 2
        return self.rows

    def _held(self) -> int:
        return sum(engine.bytes for engine in self._engines.values())
