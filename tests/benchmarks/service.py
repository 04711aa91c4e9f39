"""The speed of the service on this machine: `python -m tests.benchmarks.service`.

Pick-up: the time from the INSERT of a job to the claim of its first shard by an idle worker, at default settings.
Overhead: images per second of the service compared with the engine alone on the same requests, with a model whose step
takes at least 200 ms (a simulated device: the process sleeps for the rest of each step, as it would wait for a GPU).
Fast device: the same with steps of 1 ms and images of 64x64 pixels that cost nothing to decode: what encoding, storing
and settling cost beside a small model on a fast card.
Scaling: two workers compared with one, with the same simulated device, since two cores cannot show it otherwise.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import cast

import pytest
from sqlalchemy import text

from services.job_queue.plan import Plan
from services.job_requests.image_spec import image_spec
from services.job_requests.schema import DEFAULTS
from services.worker.decoder import Decoder
from services.worker.engine import Engine
from tests.support.stack import Stack, fresh_stack
from training.model.batch import Batch

SLOW_STEP = """
import time
from training.model.batch import Batch
step = Batch.step
def slow(self):
    begun = time.perf_counter()
    step(self)
    time.sleep(max(0.0, {} - (time.perf_counter() - begun)))
Batch.step = slow
"""
STEP_S = 0.2
FAST_STEPS = 50  # guided: two evaluations each
# Evaluations of 1 ms that compute nothing, and decoded images of 64x64 pixels.
FAST_DEVICE = """
import time
import numpy as np
import torch
from services.worker.decoder import Decoder
from training.model.batch import Batch
def evaluate(self, selected, ticket, noise, guider):
    time.sleep(0.001)
    return self._state[:, 0]
Batch._evaluate = evaluate
images = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
images = torch.from_numpy(images)
Decoder._compute = lambda self, group: (images[: len(group)], torch.ones(len(group), dtype=torch.bool))
"""


def measure_pick_up(stack: Stack, count: int) -> list[float]:
    """Return the seconds from each INSERT to the claim of its first shard, by the database's clock."""
    found = []
    with stack.process("dispatcher") as dispatcher, stack.process("worker") as worker:
        dispatcher.wait_for("serves")
        worker.wait_for("serves queues")
        for _ in range(count + 3):
            job_id = stack.submit({"items": [{"class_label": 1}], "steps": 1})
            row = stack.wait(job_id)
            found.append((row.started_at - row.created_at).total_seconds())
            time.sleep(0.5)
    return found[3:]  # the first ones load the release


def service_speed(stack: Stack, workers: int, jobs: int, steps: int, device: str = SLOW_STEP.format(STEP_S)) -> float:
    """Return the images per second from the first claim to the last record. device: code that replaces the device."""
    with ExitStack() as stop:
        stop.enter_context(stack.process("dispatcher")).wait_for("serves")
        for _ in range(workers):
            process = stack.process("worker", first=device, OMP_NUM_THREADS="1")
            stop.enter_context(process).wait_for("serves queues")
        for _ in range(workers):  # loads the release
            stack.wait(stack.submit({"items": [{"class_label": 1}], "images_per_item": 64, "steps": 2}))
        ids = [stack.submit(request(number, steps)) for number in range(jobs)]
        for job_id in ids:
            stack.wait(job_id, timeout=900)
    with stack.engine("migrator").connect() as connection:
        row = connection.execute(
            text("""
                SELECT count(*) AS images, max(outputs.created_at) - min(jobs.started_at) AS taken
                FROM outputs JOIN jobs ON jobs.id = job_id WHERE job_id = ANY(:ids)
            """),
            {"ids": ids},
        ).one()
    return float(row.images / row.taken.total_seconds())


def request(number: int, steps: int) -> dict[str, object]:
    """Return a request of 64 images."""
    return {"items": [{"class_label": number % 10}], "images_per_item": 64, "steps": steps, "seed": number}


def engine_speed(stack: Stack, jobs: int, steps: int, device: str = SLOW_STEP.format(STEP_S)) -> float:
    """Return the images per second of the engine alone."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Batch, "step"), (Batch, "_evaluate"), (Decoder, "_compute")):
            patch.setattr(owner, name, getattr(owner, name))  # the context puts back what `device` replaces
        exec(device, {})
        return _engine_speed(stack, jobs, steps)


def _engine_speed(stack: Stack, jobs: int, steps: int) -> float:
    engine = Engine[None](stack.root / "tiny-release", rows=stack.settings("worker").rows, device="cpu")
    for number in range(jobs):
        plan = cast(Plan, {**DEFAULTS, **request(number, steps)})
        conditions = engine.read_conditions(plan["items"][0])
        for index in range(64):
            engine.add(None, engine.request(image_spec(plan, plan["items"][0], index), conditions))
    begun, images = time.perf_counter(), 0
    while engine.busy:
        images += len(engine.step())
    return images / (time.perf_counter() - begun)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="jobs of the pick-up measurement")
    parser.add_argument("--jobs", type=int, default=8, help="jobs of 64 images of the throughput measurement")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args(arguments)
    with fresh_stack() as stack:
        waits = sorted(measure_pick_up(stack, options.count))
        print(f"pick-up of {len(waits)} jobs: p50 {1000 * statistics.median(waits):.0f} ms, "
              f"p95 {1000 * waits[int(0.95 * len(waits))]:.0f} ms")  # fmt: skip
        one = service_speed(stack, 1, options.jobs, options.steps)
        two = service_speed(stack, 2, options.jobs, options.steps)
        alone = engine_speed(stack, options.jobs, options.steps)
        print(f"one worker {one:.2f} images/s, the engine alone {alone:.2f}: {100 * one / alone:.1f} %")
        small = service_speed(stack, 1, options.jobs, FAST_STEPS, FAST_DEVICE)
        limit = engine_speed(stack, options.jobs, FAST_STEPS, FAST_DEVICE)
        print(f"steps of 1 ms, 64x64: one worker {small:.0f} images/s, the engine alone {limit:.0f}: "
              f"{100 * small / limit:.0f} %")  # fmt: skip
        print(f"two workers {two:.2f} images/s: {two / one:.2f} times one")


if __name__ == "__main__":
    main()
