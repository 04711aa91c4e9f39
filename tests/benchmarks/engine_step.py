"""The engine's own work in a step: `python -m tests.benchmarks.engine_step [--rows 64] [--steps 200]`.

The network and the decoder cost nothing: each answers with its input. What is left is what the engine does between
two evaluations. Latents are tiny, so that the time is that of the host and not of arithmetic. Two mixes of requests:
deterministic solvers with and without guidance, of 10 to 50 steps, where images join and leave all the time; and
ancestral sampling, where every row takes fresh noise at every step. Reports the processor time of the engine's thread,
which other programs on the machine do not change much: the median and the 95th percentile.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.job_requests.image_spec import ImageSpec
from services.worker.engine import Engine
from tests.support.releases import make_tiny_release

WARM_UP = 20
SOLVERS = ("ddim", "dpm_solver_2m", "unipc")


def free_network(x: Tensor, t: Tensor, **conditions: Any) -> Tensor:
    """Answer at once: x [R, C, h, w] -> [R, C, h, w]."""
    return x


def free_decoder(latents: Tensor) -> Tensor:
    """Answer at once: [R, C, h, w] -> [R, 1, h, w]."""
    return latents[:, :1]


def specs(ancestral: bool, seed: int = 0) -> Any:
    """Yield images without end."""
    draw = random.Random(seed)
    index = 0
    while True:
        solver = "ddpm" if ancestral else draw.choice(SOLVERS)
        yield ImageSpec(index, index, index, draw.randint(10, 50), solver, draw.choice([1.0, 2.0, 2.0]))
        index += 1


def time_steps(engine: Engine[object], steps: int, *, ancestral: bool) -> list[float]:
    """Return the seconds of each of `steps` steps with the batch full; images are prepared before."""
    requests = [
        engine.request(spec, engine.read_conditions({"class_label": spec.seed % 10}))
        for spec in islice(specs(ancestral), engine.rows * (WARM_UP + steps) // 5)
    ]
    source, taken = iter(requests), []
    for number in range(WARM_UP + steps):
        begun = time.thread_time()
        while engine.free_rows:
            engine.add("owner", next(source))
        engine.step()
        if number >= WARM_UP:
            taken.append(time.thread_time() - begun)
    engine.remove("owner")
    return taken


def free_engine(folder: Path, rows: int) -> Engine[object]:
    """Return an engine whose network and decoder cost nothing."""
    engine = Engine[object](make_tiny_release(folder), rows=rows, device="cpu")
    engine.model.unet.forward = free_network  # type: ignore[method-assign, assignment]
    engine.model.autoencoder.decode = free_decoder  # type: ignore[method-assign, assignment]
    return engine


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        engine = free_engine(Path(folder) / "tiny", options.rows)
    for ancestral, name in ((False, "deterministic"), (True, "ancestral")):
        taken = sorted(time_steps(engine, options.steps, ancestral=ancestral))
        median, late = statistics.median(taken), taken[int(0.95 * len(taken))]
        print(f"{name:14} {options.rows} rows: median {median * 1e3:6.2f} ms, 95th percentile {late * 1e3:6.2f} ms")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
