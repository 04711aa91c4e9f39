"""What the parts of `tests.benchmarks.gpu` share: the device, and how long work takes on it."""

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch

from tests.benchmarks.gpu import PREPARES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROFILE = "bf16-compiled" if DEVICE.type == "cuda" else "bf16"
KINDS = {  # of kernels, by words in their names; the first that fits
    "triton reductions": ("triton_red", "triton_per"),
    "triton passes": ("triton_",),
    "copies": ("memcpy", "memset", "copy", "nchwtonhwc", "nhwctonchw", "convert", "transpose"),
    "convolutions": ("fprop", "dgrad", "wgrad", "conv", "cudnn"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "gemv", "splitk"),
}
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
    if prepares() and DEVICE.type == "cuda":
        torch.cuda.empty_cache()  # the parts beside this one need memory too
    return statistics.median(taken)


def kernel_seconds(work: Callable[[], object]) -> Counter[str]:
    """Return the seconds that each kernel takes in one round of `work`; on a CPU each operator."""
    activity = torch.profiler.ProfilerActivity.CUDA if DEVICE.type == "cuda" else torch.profiler.ProfilerActivity.CPU
    work()
    synchronise()
    with torch.profiler.profile(activities=[activity]) as profile:
        work()
        synchronise()
    found: Counter[str] = Counter()
    for event in profile.key_averages():
        found[event.key] += (
            event.self_device_time_total / 1e6 if DEVICE.type == "cuda" else event.self_cpu_time_total / 1e6
        )
    return found


def kind_of(kernel: str) -> str:
    """Return what a kernel of a GPU is for, by its name."""
    return next((kind for kind, words in KINDS.items() if any(word in kernel.lower() for word in words)), "others")


def synchronise() -> None:
    """Wait until the device is idle."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
