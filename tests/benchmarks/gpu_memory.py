"""The part of `tests.benchmarks.gpu` about a device without memory."""

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from services.registry.release_cache import ReleaseCache
from services.settings import load
from services.worker.engine import Engine
from services.worker.engine_cache import EngineCache
from services.worker.self_test import SelfTest
from tests.benchmarks.gpu_parts import develop
from tests.benchmarks.gpu_timing import DEVICE, Report
from tests.support.releases import make_digits_release
from training.model.release import read


def out_of_memory(smallest: bool, report: Report) -> None:
    """A device with little memory left serves with fewer rows, and gives the bytes of that many rows.

    On a CPU the memory is said to end at more than 4 rows.
    """
    rows = 8 if smallest else 1024
    with tempfile.TemporaryDirectory() as name:
        folder = make_digits_release(Path(name) / "release")
        given = {
            "S3_BUCKET": "none", "DATABASE_URL": "postgresql://nobody@localhost/none", "BROKER_URL": "redis://localhost/0",
            "CACHE_DIR": name, "ROOT": name, "ROWS": str(rows), "DEVICE": DEVICE.type, "PROFILE": "bf16",
        }  # fmt: skip
        settings = load("worker", {f"DARKROOM_{key}": value for key, value in given.items()})
        cache: Any = EngineCache(None, settings)  # type: ignore[arg-type]  # nothing is fetched
        loaded = patch.object(ReleaseCache, "load", lambda self, manifest, build: build(folder))
        with loaded, little_memory(folder, rows):
            engine = cache.get(read(folder).to_json())
            found = develop(engine, list(range(8)))
        report(f"rows that fit, of {rows}", engine.rows)
        assert engine.rows < rows, "the memory was not full"
        other = Engine[str](folder, rows=engine.rows, decode=engine.decode_rows, device=DEVICE.type, profile="bf16")
        assert develop(other, list(range(8))) == found, "images have other bytes than those of as many rows"
        report("images with the bytes of as many rows", len(found))


@contextmanager
def little_memory(folder: Path, rows: int) -> Iterator[None]:
    """Leave memory for an engine that has more than 2 rows, and clearly fewer than half of `rows`."""
    if DEVICE.type == "cuda":
        few, many = needed_bytes(folder, 2), needed_bytes(folder, rows)
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + few + (many - few) * 3 / 8) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    check = SelfTest.check_step

    def fail(self: SelfTest, take_step: Any, null: Any, rows: int) -> None:
        if rows > 4:
            raise torch.OutOfMemoryError("simulated")
        check(self, take_step, null, rows)

    with patch.object(SelfTest, "check_step", fail):
        yield


def needed_bytes(folder: Path, rows: int) -> int:
    """Return how much of a GPU's memory an engine takes at most."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    engine = Engine[str](folder, rows=rows, device=DEVICE.type, profile="bf16")
    develop(engine, list(range(8)))
    taken = torch.cuda.max_memory_reserved() - before
    engine.close()
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    return taken
