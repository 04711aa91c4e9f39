"""Loads the compile cache of a release, which all workers share, before its engine compiles the networks."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from services.observability import metrics
from services.settings import Settings
from services.worker.compile_apart import Networks, TooLate, compile_apart
from services.worker.compile_cache import Cache, CompileCache, key_of
from services.worker.compiled_files import unpack
from services.worker.device_faults import UnstableProfile
from services.worker.execution import Execution, choose_device
from services.worker.pack import rows_of_parts
from training.model.release import Release

log = logging.getLogger("darkroom.compile_cache")

MISSES = ("fxgraph_cache_miss", "fxgraph_cache_bypass")  # of torch's counters


@dataclass(frozen=True)
class Choice:
    """A value of DARKROOM_PROFILE, and the sha256 of the compile cache that was loaded for it, if any."""

    profile: str
    cache: str | None = None


class Precompiler:
    """Loads compile caches into torch, which finds them when an engine compiles its networks."""

    def __init__(self, caches: CompileCache, settings: Settings) -> None:
        self._caches, self._settings = caches, settings

    def choose(self, folder: Path, release: Release, profile: str, rows: int, decode: int) -> Choice:
        """Return how to load a release in a profile with so many rows; see `Engine`.

        If compiling takes longer than DARKROOM_COMPILE_LIMIT_S, that is eagerly, or TooLate, as DARKROOM_COMPILE_LATE
        says. Raises OutOfMemory, UnstableProfile if the networks cannot be compiled, and errors of S3.
        """
        settings, device = self._settings, choose_device(self._settings.device)
        execution = Execution.choose(profile, device, release.serve.precision)
        if not execution.compiled:
            return Choice(profile)
        rows = min(rows, release.serve.rows or rows)
        parts = rows_of_parts(rows, decode, device.type)
        key = key_of(release, execution.name(*parts), *parts)
        networks = Networks(str(folder), rows, decode, settings.device, profile)
        try:
            cache = self._caches.get(key, lambda: compile_apart(networks, settings.compile_limit_s))
        except TooLate as error:
            metrics.COMPILE_CACHE.labels("late").inc()
            if settings.compile_late == "fail":
                raise TooLate(
                    f"profile {execution.name(*parts)}: {error}; raise DARKROOM_COMPILE_LIMIT_S, set "
                    f"DARKROOM_COMPILE_LATE to eager, or set DARKROOM_PROFILE to {execution.precision}"
                ) from None
            problem = f"profile {execution.name(*parts)}: {error}"
        except UnstableProfile:
            metrics.COMPILE_CACHE.labels("failed").inc()
            raise
        else:
            load(cache)
            return Choice(profile, cache.sha256)
        eager = replace(execution, compiled=False).name(*parts)
        log.warning("%s; release %s is served as %s", problem, release.name, eager)
        return Choice(execution.precision)


def load(cache: Cache) -> None:
    """Load a cache into torch. One that cannot be read is as good as none; see `count_compiled`."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # imports the compiler, which takes a second

    try:
        saved = unpack(cache.content, Path(cache_dir()))
    except ValueError as error:
        log.warning("compile cache %s: %s", cache.sha256, error)
    else:
        torch.compiler.load_cache_artifacts(saved)


def count_compiled(choice: Choice) -> int:
    """Return how many networks this process has compiled itself; 0 unless a cache was loaded for them."""
    if choice.cache is None:
        return 0
    from torch._dynamo.utils import counters

    return sum(int(counters["inductor"][name]) for name in MISSES)
