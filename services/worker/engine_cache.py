"""Loaded releases: as many as fit the memory for models. The least recently used one is unloaded first."""

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.observability import metrics
from services.registry.release_cache import ReleaseCache
from services.settings import Settings
from services.storage.object_store import ObjectStore
from services.worker.device_faults import OutOfMemory
from services.worker.engine import Engine
from services.worker.held_shards import HeldShard

log = logging.getLogger("darkroom.engines")

MIN_ROWS = 2


class EngineCache:
    """Engines by the digest of their release."""

    def __init__(self, store: ObjectStore, settings: Settings) -> None:
        self.settings = settings
        self._files = ReleaseCache(store, settings.cache_dir, settings.cache_gb, settings.cache_seed)
        self.rows = settings.rows
        self._engines: OrderedDict[str, Engine[HeldShard]] = OrderedDict()

    def get(self, manifest: Mapping[str, Any]) -> Engine[HeldShard]:
        """Return the engine of a release, downloading and loading the release if necessary.

        Raises whatever prevents that.
        """
        digest = manifest["digest"]
        if digest in self._engines:
            self._engines.move_to_end(digest)
            return self._engines[digest]
        began = time.monotonic()
        size = sum(record["bytes"] for record in manifest["files"].values())

        def build(folder: Path) -> Engine[HeldShard]:
            self._unload_for(size)
            while True:
                try:
                    settings = self.settings
                    return Engine(folder, rows=self.rows, device=settings.device, profile=settings.profile)
                except OutOfMemory as error:
                    log.warning("out of memory with %d rows (%s) while a release was loaded", self.rows, error)
                    if self._halve() is None:
                        raise

        engine = self._files.load(manifest, build)
        self._engines[digest] = engine
        metrics.LOAD_SECONDS.observe(time.monotonic() - began)
        metrics.RELEASES_LOADED.set(len(self._engines))
        metrics.ROWS.set(self.rows)
        log.info("loaded %s in %.1f s; profile %s", engine.release.name, time.monotonic() - began, engine.profile)
        return engine

    def halve_rows(self, engine: Engine[HeldShard]) -> int | None:
        """Unload everything after `engine` ran out of memory, and load engines with half the rows from now on.

        Returns the new number of rows, or None if it cannot be lower.
        """
        self._engines.clear()
        engine.close()
        return self._halve()

    def _halve(self) -> int | None:
        metrics.PROFILE_SHRINKS.inc()
        if self.rows // 2 < MIN_ROWS:
            return None
        self.rows //= 2
        return self.rows

    def _unload_for(self, size: int) -> None:
        """Unload the least recently used engines until weights of `size` bytes fit beside the others."""
        while self._engines and self._loaded_bytes() + size > self.settings.model_memory_gb * 2**30:
            _, engine = self._engines.popitem(last=False)
            log.info("unloading %s", engine.release.name)
            del engine  # frees the old model's memory before the new one takes any

    def _loaded_bytes(self) -> int:
        return sum(engine.weight_bytes for engine in self._engines.values())
