"""What the parts of `tests.benchmarks.gpu` share: the device, and how long work takes on it."""

import os
import statistics
import time
from collections.abc import Callable

import torch

from tests.benchmarks.gpu import PREPARES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROFILE = "bf16-compiled" if DEVICE.type == "cuda" else "bf16"
REHEARSED = DEVICE.type == "cpu"  # where no number counts

Report = Callable[[str, float], None]  # takes what was measured, and its value


def prepares() -> bool:
    """Whether this process only compiles."""
    return PREPARES in os.environ


def median_seconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Return the median time of `work` on the device after two rounds of warm-up.

    Where it `prepares`, and on a CPU, of one round.
    """
    taken = []
    rounds, warm_up = (1, 0) if prepares() or REHEARSED else (repeats + 2, 2)
    for round_ in range(rounds):
        synchronise()
        begun = time.perf_counter()
        work()
        synchronise()
        if round_ >= warm_up:
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def synchronise() -> None:
    """Wait until the device is idle."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
