"""What tests/gpu shares: engines of a tiny release, and what to compare. It needs no packages but the worker's."""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from services.worker.engine import Engine
from tests.benchmarks.gpu_parts import add, develop, engine_of
from tests.benchmarks.gpu_timing import DEVICE
from training.model.batch import Known

IMAGES = list(range(24 if DEVICE.type == "cuda" else 6))


@cache
def engine(profile: str, number: int = 0) -> Engine[str]:
    """Return an engine of the tiny release, which the tests of a process share; another number is another engine."""
    with tempfile.TemporaryDirectory() as folder:
        return engine_of(Path(folder) / "release", 8, profile)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let torch raise where the host would wait for the device."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_no_step_waits(profile: str) -> None:
    """Sample images of several solvers, with noise and with a region that is kept, after a first step of each kind."""
    made = engine(profile)
    develop(made, IMAGES)
    for index in IMAGES[:4]:
        add(made, index)
    made.step()  # embeds what it does not know, which may wait
    batch = made.pack.batch
    batch.runs[0].known = Known(
        torch.zeros(made.pack.shape, device=DEVICE), torch.ones(1, *made.pack.shape[1:], device=DEVICE)
    )
    with torch.inference_mode():
        batch.step()  # copies the table of noise levels
        with no_waiting():
            for _ in range(8):
                batch.step()
    made.remove("owner")


def check_bytes(profile: str) -> None:
    """Compare images alone, in other orders and places, and in another engine of the profile."""
    made, other = engine(profile), engine(profile, 1)
    expected = develop(made, IMAGES)
    assert len(set(expected.values())) == len(IMAGES)
    for seed in range(4):
        order = IMAGES.copy()
        random.Random(seed).shuffle(order)
        assert develop(other if seed % 2 else made, order) == expected
    for index in IMAGES[::6]:
        assert develop(made, [index])[index] == expected[index]


def pixels(profile: str) -> NDArray[np.float64]:
    """Return the pixels of all images in a profile."""
    found = develop(engine(profile), IMAGES)
    return np.stack([np.frombuffer(found[index], np.uint8) for index in IMAGES]).astype(np.float64)


def psnr(found: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    """Return the peak signal-to-noise ratio of pixels in dB."""
    return float(10 * np.log10(255**2 / np.square(found - exact).mean()))
