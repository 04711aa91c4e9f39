"""What estimates of ten jobs of different shapes are worth on a busy queue: `python -m tests.benchmarks.estimates`.

It runs a stack, a dispatcher and a worker of its own, with the model of the demo at random weights, a distilled
release, and a second tenant of the same weight whose jobs keep the queue busy. Jobs of all shapes come first, so that
the cost of their releases is known. Then each shape is estimated and submitted. Prints for each the estimate of its
evaluations, its device seconds, its bytes and its time, beside what they were.

    --share S    of the images of each shape, to try it quickly
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.support.releases import make_digits_release, make_distilled_release
from tests.support.stack import Stack, fresh_stack, publish
from tests.support.tenants import Tenant, make_tenant

ITEMS = [{"class_label": number % 10} for number in range(16)]
BUSY, BUSY_EACH = {"items": ITEMS, "steps": 12}, 200
PATIENCE_S = 3_600
# A release, its request, and the images of each of its 16 items.
SHAPES: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("usual", "digits", {"items": ITEMS}, 20),
    ("one step", "digits", {"items": ITEMS, "steps": 1, "guidance_scale": 1}, 80),
    ("many steps", "digits", {"items": ITEMS, "steps": 60, "spacing": "leading"}, 8),
    ("part of the steps guided", "digits", {"items": ITEMS, "steps": 15, "guidance_interval": [0.2, 0.7]}, 20),
    ("another solver", "digits", {"items": ITEMS, "solver": "heun", "steps": 8}, 20),
    ("another size", "digits", {"items": ITEMS, "size": [96, 32]}, 8),
    ("several sizes", "digits", {"items": [{**one, "size": [32 + n % 3 * 32, 32]} for n, one in enumerate(ITEMS)]}, 10),
    ("a grid", "digits", {"items": ITEMS, "grid": {"steps": [3, 7, 20], "guidance_scale": [1, 3]}}, 4),
    ("distilled", "tiny-distilled", {"items": ITEMS, "steps": 2}, 80),
    ("a chain", "digits", {"items": ITEMS, "then": [{"model": "digits", "strength": 0.5}]}, 12),
)  # fmt: skip
USED = text("""
    SELECT sum(evaluations)::float8 AS evaluations, sum(gpu_seconds)::float8 AS seconds, sum(bytes)::float8 AS bytes
    FROM (
        SELECT evaluations, gpu_seconds, bytes FROM outputs WHERE job_id = :job
        UNION ALL SELECT evaluations, gpu_seconds, 0 FROM stage_outputs WHERE job_id = :job) AS image
""")
ESTIMATE = text("SELECT estimate, finished_at FROM jobs WHERE id = :job")
TOOK = text("SELECT CAST(extract(epoch FROM finished_at - created_at) AS float8) FROM jobs WHERE id = :job")


def shape_of(request: dict[str, Any], each: int, share: float) -> dict[str, Any]:
    """Return the request with its images, or a share of them."""
    return {**request, "images_per_item": max(1, round(each * share)), "seed": 7}


@contextmanager
def served(share: float) -> Iterator[tuple[Stack, Tenant, Tenant]]:
    """Run a stack whose releases have costs. Yields it with the tenant that asks and the one that keeps it busy."""
    with fresh_stack() as stack, tempfile.TemporaryDirectory() as folder:
        for make in (make_digits_release, make_distilled_release):
            publish(stack, make(Path(folder) / make.__name__))
        asking, busy = make_tenant(stack, "asking"), make_tenant(stack, "busy")
        with stack.process("dispatcher"), stack.process("worker"):
            for _, model, request, each in SHAPES:
                asking.wait(asking.submit(shape_of(request, each, share / 4), model), timeout=PATIENCE_S)
            yield stack, asking, busy


def off(estimated: float, actual: float) -> str:
    """Return an estimate, what it was, and by how much the estimate is off."""
    return f"{estimated:10.1f} {actual:10.1f} {100 * (estimated / actual - 1):+6.1f}%" if actual else " " * 29


def keep_busy(busy: Tenant, share: float) -> None:
    """Submit jobs until two are open."""
    with busy.connect() as connection:
        open_jobs = (
            connection.execute("SELECT count(*) AS count FROM jobs WHERE finished_at IS NULL").fetchall()[0].count
        )
    for _ in range(2 - open_jobs):
        busy.wait(busy.submit(shape_of(BUSY, BUSY_EACH, share), "digits"), "planned", "running", timeout=PATIENCE_S)


def measure(stack: Stack, asking: Tenant, model: str, request: dict[str, Any]) -> str:
    """Estimate a job and submit it. Returns a line of the table."""
    dry = asking.submit({**request, "dry_run": True}, model)
    asking.wait(dry, timeout=PATIENCE_S)
    job = asking.submit(request, model)
    ended = asking.wait(job, timeout=PATIENCE_S)
    assert ended.state == "succeeded", ended.reason
    with stack.engine("migrator").connect() as connection:
        found, asked_at = connection.execute(
            text("SELECT estimate, finished_at FROM jobs WHERE id = :job"), {"job": dry}
        ).one()
        took = connection.scalar(TOOK, {"job": job})
        used = connection.execute(USED, {"job": job}).one()
    expected = (datetime.fromisoformat(found["ends_at"]) - asked_at).total_seconds()
    pairs = ((found["evaluations"], used.evaluations), (found["gpu_seconds"], used.seconds),
             (found["bytes"] / 1024, used.bytes / 1024), (expected, took))  # fmt: skip
    return " |".join(off(*pair) for pair in pairs)


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0)
    share = parser.parse_args().share
    with served(share) as (stack, asking, busy):
        heads = ("evaluations", "device seconds", "KiB", "seconds to its end")
        print(f"{'':26}" + " |".join(f"{head:>29}" for head in heads))
        for name, model, request, each in SHAPES:
            keep_busy(busy, share)
            print(f"{name:26}" + measure(stack, asking, model, shape_of(request, each, share)), flush=True)


if __name__ == "__main__":
    main()
