"""Loaded releases: as many as fit the memory for models. The least recently used one is unloaded first."""

import gc
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from services.observability import metrics
from services.registry.release_cache import ReleaseCache
from services.settings import Settings
from services.storage.object_store import ObjectStore
from services.worker.compile_apart import TooLate
from services.worker.compile_cache import CompileCache
from services.worker.device_faults import OutOfMemory, Part, UnstableProfile
from services.worker.engine import Engine
from services.worker.execution import Execution, choose_device
from services.worker.held_shards import HeldShard
from services.worker.pack import DECODE_ROWS
from services.worker.precompile import Precompiler, count_compiled
from training.model.release import parse

log = logging.getLogger("darkroom.engines")

MIN_ROWS = 2


@dataclass
class Sizes:
    """How many rows of a release fit the memory, as far as is known: of the network and of the decoder."""

    rows: int
    decode: int

    def halve(self, part: Part) -> bool:
        """Halve the rows of the part that ran out of memory. Returns False if there is nothing to halve."""
        if part == "the decoder" and self.decode > 1:
            self.decode //= 2
        elif self.rows // 2 >= MIN_ROWS:
            self.rows //= 2
        else:
            return False
        return True


class EngineCache:
    """Engines by the digest of their release."""

    def __init__(self, store: ObjectStore, settings: Settings) -> None:
        self.settings = settings
        self._precompiler = Precompiler(CompileCache(store), settings)
        self._files = ReleaseCache(store, settings.cache_dir, settings.cache_gb, settings.cache_seed)
        self._sizes: dict[str, Sizes] = {}  # by digest, of the releases that were loaded before
        self._profiles: dict[str, list[str]] = {}  # by digest, fastest first: those that have not failed
        self._engines: OrderedDict[str, Engine[HeldShard]] = OrderedDict()

    def get(self, manifest: Mapping[str, Any]) -> Engine[HeldShard]:
        """Return the engine of a release, downloading and loading the release if necessary.

        Raises whatever prevents that.
        """
        digest = manifest["digest"]
        if digest in self._engines:
            self._engines.move_to_end(digest)
            metrics.ROWS.set(self._engines[digest].rows)
            return self._engines[digest]
        began = time.monotonic()
        size = sum(record["bytes"] for record in manifest["files"].values())

        def build(folder: Path) -> Engine[HeldShard]:
            self._unload_for(size)
            while True:
                try:
                    return self._build(folder, manifest)
                except OutOfMemory as error:
                    failed = OutOfMemory(str(error), error.part)  # the frames of `error` keep the model in memory
                if not self._make_room(digest, failed):
                    raise failed

        engine = self._files.load(manifest, build)
        self._engines[digest] = engine
        metrics.LOAD_SECONDS.observe(time.monotonic() - began)
        metrics.RELEASES_LOADED.set(len(self._engines))
        metrics.ROWS.set(engine.rows)
        log.info("loaded %s in %.1f s; profile %s", engine.release.name, time.monotonic() - began, engine.profile)
        return engine

    def recover(self, engine: Engine[HeldShard], error: OutOfMemory) -> bool:
        """Unload `engine`, which ran out of memory, and make room for it to be loaded again.

        Returns False if that is not possible.
        """
        self._engines.pop(engine.release.digest, None)
        engine.close()
        return self._make_room(engine.release.digest, error)

    def _build(self, folder: Path, manifest: Mapping[str, Any]) -> Engine[HeldShard]:
        """Build an engine in the fastest profile that can be used. What failed once is not tried again."""
        device, precision = choose_device(self.settings.device), parse(manifest).serve.precision
        permitted = [one.setting for one in Execution.permitted(self.settings.profile, device, precision)]
        profiles = self._profiles.setdefault(manifest["digest"], permitted)
        while True:
            try:
                return self._build_in(profiles[0], folder, manifest)
            except TooLate:
                raise
            except UnstableProfile as error:
                if len(profiles) == 1:
                    raise
                problem = str(error)  # the frames of `error` keep the model in memory
            metrics.PROFILE_FALLBACKS.labels(profiles.pop(0)).inc()
            log.warning("release %s: %s; auto tries %s instead", manifest["name"], problem, profiles[0])
            free_memory()

    def _build_in(self, profile: str, folder: Path, manifest: Mapping[str, Any]) -> Engine[HeldShard]:
        settings, rule = self.settings, parse(manifest).serve
        rows, decode = min(settings.rows, rule.rows or settings.rows), DECODE_ROWS[choose_device(settings.device).type]
        sizes = self._sizes.setdefault(manifest["digest"], Sizes(rows, decode))
        choice = self._precompiler.choose(folder, parse(manifest), profile, sizes.rows, sizes.decode)
        build = partial(
            Engine[HeldShard], folder, rows=sizes.rows, decode=sizes.decode, device=settings.device,
            profile=choice.profile,
        )  # fmt: skip
        compiled_before = count_compiled(choice)
        engine = build(cache=choice.cache)
        if count_compiled(choice) > compiled_before:
            metrics.COMPILE_CACHE.labels("missed").inc()
            log.warning(
                "release %s: torch did not use the compile cache and compiled the networks again", manifest["name"]
            )
            engine.close()
            engine = build(cache=None)  # a profile that does not claim the kernels of the cache
        return engine

    def _make_room(self, digest: str, error: OutOfMemory) -> bool:
        """Unload the other engines, or halve the rows of this release if it is alone. Returns False if neither helps.

        Other releases keep their rows, and with them their profiles.
        """
        sizes = self._sizes[digest]
        problem = f"release {digest[:12]}: out of memory in {error.part} with {sizes.rows} rows ({error})"
        if self._engines:
            log.warning("%s; the other releases are unloaded", problem)
            self._engines.clear()
        elif sizes.halve(error.part):
            metrics.PROFILE_SHRINKS.inc()
            log.warning("%s; continuing with %d rows, and %d in the decoder", problem, sizes.rows, sizes.decode)
        else:
            log.error("%s; the number of rows cannot be reduced further", problem)
            return False
        free_memory()
        return True

    def _unload_for(self, size: int) -> None:
        """Unload the least recently used engines until weights of `size` bytes fit beside the others."""
        while self._engines and self._loaded_bytes() + size > self.settings.model_memory_gb * 2**30:
            _, engine = self._engines.popitem(last=False)
            log.info("unloading %s", engine.release.name)
            del engine  # frees the old model's memory before the new one takes any

    def _loaded_bytes(self) -> int:
        return sum(engine.weight_bytes for engine in self._engines.values())


def free_memory() -> None:
    """Return to the device what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
