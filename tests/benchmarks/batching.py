"""Step-level batching compared with its alternatives: `python -m tests.benchmarks.batching [--requests N] [--rows B]`.

A mix of requests as a service receives it: 1 to 64 images, 10 to 50 steps, with and without guidance, in order of
arrival. The same engine with the same number of rows runs them in three ways: step by step, where images join and
leave at every step; in static batches, each of as many images as fit, which last as long as their slowest image; and
request by request, as a task for each request would. Reports images per second, the median of alternating repeats.

--step S simulates a device: every evaluation sleeps until S seconds have passed, as it would wait for a GPU.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from services.job_requests.image_spec import ImageSpec
from services.worker.engine import Engine
from tests.benchmarks.service import SLOW_STEP
from tests.support.releases import make_tiny_release

Request = list[ImageSpec]


def mixed_requests(count: int, seed: int = 0) -> list[Request]:
    """Return requests: many small ones and a few large ones, as in practice."""
    draw = random.Random(seed)
    requests = []
    for number in range(count):
        size = min(64, max(1, round(2 ** draw.uniform(0, 6))))
        steps, scale = draw.randint(10, 50), draw.choice([1.0, 2.0, 2.0])
        requests.append([ImageSpec(i, i, number * 1000 + i, steps, "ddim", scale) for i in range(size)])
    return requests


def step_level(requests: Sequence[Request], rows: int) -> Iterator[list[ImageSpec]]:
    """Give the engine all images at once; it lets them join when there is room."""
    yield [spec for request in requests for spec in request]


def static(requests: Sequence[Request], rows: int) -> Iterator[list[ImageSpec]]:
    """Give the engine as many images as fit; the next batch starts when all of them are done."""
    batch: list[ImageSpec] = []
    used = 0
    for spec in (spec for request in requests for spec in request):
        needed = 1 if spec.guidance_scale == 1.0 else 2
        if used + needed > rows:
            yield batch
            batch, used = [], 0
        batch.append(spec)
        used += needed
    yield batch


def one_by_one(requests: Sequence[Request], rows: int) -> Iterator[list[ImageSpec]]:
    """Give the engine one request at a time."""
    yield from requests


WAYS: dict[str, Callable[[Sequence[Request], int], Iterator[list[ImageSpec]]]] = {
    "step-level": step_level,
    "static batches": static,
    "one task a request": one_by_one,
}


def run_groups(engine: Engine[object], groups: Iterator[list[ImageSpec]]) -> tuple[float, int]:
    """Run the groups one after the other. Returns the seconds and the number of network evaluations."""
    begun, steps = time.perf_counter(), 0
    for group in groups:
        for spec in group:
            conditions = engine.read_conditions({"class_label": spec.seed // 1000 % 10})
            engine.add(group, engine.request(spec, conditions))
        while engine.busy:
            engine.step()
            steps += 1
    return time.perf_counter() - begun, steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", type=float, default=0.0, help="seconds of a simulated step; 0: as fast as it goes")
    options = parser.parse_args(arguments)
    if options.step:
        exec(SLOW_STEP.format(options.step), {})
    requests = mixed_requests(options.requests)
    images = sum(len(request) for request in requests)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine[object](make_tiny_release(Path(folder) / "tiny"), rows=options.rows)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    evaluations: dict[str, int] = {}
    run_groups(engine, iter([requests[0]]))  # warms up
    for _ in range(options.repeats):
        for name, way in WAYS.items():
            taken, evaluations[name] = run_groups(engine, way(requests, options.rows))
            found[name].append(images / taken)
    best = statistics.median(found["step-level"])
    print(f"{len(requests)} requests, {images} images, {options.rows} rows, {engine.profile}")
    for name, speeds in found.items():
        speed = statistics.median(speeds)
        print(f"{name:20} {speed:8.2f} images/s  {evaluations[name]:6} steps  {best / speed:5.2f}x")


if __name__ == "__main__":
    main()
