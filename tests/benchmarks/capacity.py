"""The capacity of one worker for a release, and the values of a pool that follow from it.

    python -m tests.benchmarks.capacity RELEASE --condition '{"class_label": 3}' --steps 20 --rows 32 --seconds 120

Keeps a worker busy with jobs of one kind and reads its /metrics twice. Prints the inputs of the capacity table in
docs/sizing.md, the results of its formula, and the number of images that were really made. Run it with the GPU and
the release of the pool.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.registry import releases
from tests.support.http import free_port, scrape_metrics
from tests.support.stack import Stack, fresh_stack

WARM_UP_S = 30.0  # the release is loaded, the batch is full
PER_JOB = 64


def measure_increases(stack: Stack, job: dict[str, object], model: str, rows: int, seconds: float) -> dict[str, float]:
    """Return the increase of each of the worker's metrics, and the elapsed time as `seconds`."""
    port = free_port()
    environment = {"DARKROOM_METRICS_PORT": str(port), "DARKROOM_ROWS": str(rows)}
    with stack.process("dispatcher"), stack.process("worker", **environment) as worker:
        worker.wait_for("serves queues")
        waiting = [stack.submit(job, model) for _ in range(8)]
        begun = time.monotonic() + WARM_UP_S
        before: dict[str, float] = {}
        while True:
            for done in [one for one in waiting if stack.job(one).state not in ("submitted", "planned")][:-4]:
                waiting.remove(done)
                waiting.append(stack.submit(job, model))
            now = time.monotonic()
            if not before and now > begun:
                begun, before = now, scrape_metrics(port)
            elif before and now > begun + seconds:
                after = scrape_metrics(port)
                grown = {name: value - before.get(name, 0) for name, value in after.items()}
                return {**grown, "seconds": now - begun}
            time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--condition", type=json.loads, default={}, help="one item of the request, as JSON")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args(arguments)
    evaluations = options.steps * (1 if options.guidance == 1 else 2)
    job = {"items": [options.condition], "images_per_item": PER_JOB, "steps": options.steps,
           "solver": "dpm_solver_2m", "guidance_scale": options.guidance}  # fmt: skip
    with fresh_stack() as stack:
        with stack.engine("publisher").begin() as connection:
            name, version = releases.publish(connection, stack.store(), options.release)
        seen = measure_increases(stack, job, f"{name}@{version}", options.rows, options.seconds)
    steps = seen["darkroom_step_seconds_count"]
    step_s = seen["darkroom_step_seconds_sum"] / steps
    fill = seen["darkroom_rows_used_total"] / (steps * options.rows)
    images = seen["darkroom_images_total,outcome=stored"]
    table = Table("input", "measured")
    for words, value in (
        ("rows", f"{options.rows}"),
        ("evaluations an image", f"{evaluations}"),
        ("seconds a step", f"{step_s:.4f}"),
        ("fill", f"{100 * fill:.1f} %"),
        ("images an hour by the formula", f"{3600 * options.rows * fill / (evaluations * step_s):,.0f}"),
        ("images an hour that there were", f"{3600 * images / seen['seconds']:,.0f}"),
        ("of the time, steps", f"{100 * seen['darkroom_step_seconds_sum'] / seen['seconds']:.1f} %"),
        ("of the time, decoding", f"{100 * seen['darkroom_decode_seconds_sum'] / seen['seconds']:.1f} %"),
        ("evaluationsPerReplica for ten minutes", f"{600 * options.rows * fill / step_s:,.0f}"),
    ):
        table.add_row(words, value)
    Console().print(table)


if __name__ == "__main__":
    main()
