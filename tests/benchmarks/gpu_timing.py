"""What the parts of `tests.benchmarks.gpu` share: the device, and how long work takes on it."""

import os
import statistics
import time
from collections.abc import Callable

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROFILE = "bf16-compiled" if DEVICE.type == "cuda" else "bf16"
PREPARES = "DARKROOM_GPU_PREPARES"  # set where a part only compiles what it will measure, beside other parts
SHARED = "DARKROOM_GPU_SHARED"  # a folder for what a part prepares

Report = Callable[[str, float], None]  # takes what was measured, and its value


def prepares() -> bool:
    """Whether this process only compiles."""
    return PREPARES in os.environ


def median_seconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Return the median time of `work` on the device after two rounds of warm-up; of one round where it `prepares`."""
    taken = []
    for round_ in range(1 if prepares() else repeats + 2):
        synchronise()
        begun = time.perf_counter()
        work()
        synchronise()
        if round_ >= 2 or prepares():
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def synchronise() -> None:
    """Wait until the device is idle."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
