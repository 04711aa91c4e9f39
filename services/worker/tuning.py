"""Measures the time and memory that a release needs on this device, by the number of rows."""

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from services.job_requests.image_spec import ImageSpec
from services.worker.device_faults import OutOfMemory
from services.worker.engine import Engine
from services.worker.pack import DECODE_ROWS

MEASURED_S = 1.0  # of steps at each number of rows, at least
FEWEST_STEPS, MOST_STEPS = 3, 100
ENOUGH = 0.95  # of the best rate: with more rows a single image only takes longer
STEPS_OF_RUNS = 1000  # so that no image is finished while steps are timed; at most as many as there are timesteps


@dataclass(frozen=True)
class Usage:
    """What a release takes with so many rows.

    step_s: seconds a step. decode_s: seconds a group of `decode_rows` latents. memory: bytes at their highest, of the
    device; on a CPU of the process. profile: see `Execution.name`.
    """

    rows: int
    decode_rows: int
    step_s: float
    decode_s: float
    memory: int
    profile: str

    def images_per_second(self, steps: int, rows_an_image: float) -> float:
        """Return how many images of so many steps a full batch makes, with decoding in turn.

        rows_an_image: network rows of an image, for each of its steps.
        """
        return 1 / (steps * rows_an_image * self.step_s / self.rows + self.decode_s / self.decode_rows)


def measure(folder: Path, *, device: str, profile: str, most: int) -> Iterator[Usage]:
    """Yield what a release takes with 2, 4, 8 and so on rows, at most `most`, until the memory or its own rule ends it.

    device, profile: see `Engine`.
    """
    rows = 2
    while rows <= most:
        gc.collect()  # the engine before, whose memory counts
        try:
            usage = _measure(folder, rows, device, profile)
        except OutOfMemory:
            return
        if usage.rows < rows:  # the release asks for fewer
            return
        yield usage
        rows *= 2


def best_of(usages: list[Usage], steps: int, rows_an_image: float) -> Usage:
    """Return the one with the fewest rows that makes nearly as many images as the fastest."""
    rates = [usage.images_per_second(steps, rows_an_image) for usage in usages]
    return next(usage for usage, rate in zip(usages, rates, strict=True) if rate >= ENOUGH * max(rates))


def _measure(folder: Path, rows: int, device: str, profile: str) -> Usage:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    decode = DECODE_ROWS["cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda"]
    engine = Engine[None](folder, rows=rows, decode=decode, device=device, profile=profile)
    try:
        nothing = engine.read_conditions(dict.fromkeys(engine.release.conditions.get("properties", {})))
        steps = min(STEPS_OF_RUNS, engine.model.diffusion.timesteps)
        for index in range(engine.rows):
            spec = ImageSpec(index, 0, index, steps, "ddim", 1.0)
            engine.add(None, engine.request(spec, nothing))
        step_s = _seconds(engine, engine.step)
        latents = torch.zeros(engine.decode_rows, *engine.pack.shape, device=engine.device)
        with torch.inference_mode():
            decode_s = _seconds(engine, lambda: engine.pack.decode(latents))
        return Usage(engine.rows, engine.decode_rows, step_s, decode_s, _highest_memory(engine), engine.profile)
    finally:
        engine.close()


def _seconds(engine: Engine[None], work: Callable[[], object]) -> float:
    """Return the median time of `work` on the device, after a first call."""
    taken: list[float] = []
    _time(engine, work)
    while len(taken) < FEWEST_STEPS or (sum(taken) < MEASURED_S and len(taken) < MOST_STEPS):
        taken.append(_time(engine, work))
    return statistics.median(taken)


def _time(engine: Engine[None], work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _highest_memory(engine: Engine[None]) -> int:
    if engine.device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
