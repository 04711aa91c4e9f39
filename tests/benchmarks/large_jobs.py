"""Planning and finalizing of jobs of n, 4n and 16n images: `python -m tests.benchmarks.large_jobs [--images N]`.

Reports seconds, the longest transaction and the peak memory of the process so far. Half of the lines of an input_uri do
not fit; all images of the other jobs are recorded as stored before finalizing.
"""

import argparse
import resource
import threading
import time
import uuid
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from services.dispatcher import finalizer, planner
from services.job_queue import claims, processes
from services.job_queue.leases import Lease
from services.job_queue.states import ProcessKind
from tests.support.stack import Stack, fresh_stack

LINES = b'{"class_label": 1}\n{}\n'
STORE_ALL = """
    INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile)
    SELECT :id, i, i / 1000, i, 'outputs/' || i, repeat('0', 64), 1000, 'cpu' FROM generate_series(0, :count - 1) AS i
"""
LONGEST = "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0) FROM pg_stat_activity WHERE usename = :login"


class Watch:
    """Samples how long the transactions of the dispatcher's login are open."""

    def __init__(self, stack: Stack) -> None:
        self.longest_s = 0.0
        self._stack, self._ended = stack, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        login = self._stack.engine("dispatcher").url.username
        while not self._ended.wait(0.05):
            with self._stack.engine("migrator").begin() as connection:
                self.longest_s = max(self.longest_s, float(connection.scalar(text(LONGEST), {"login": login}) or 0))


def claim(engine: Engine) -> Lease:
    """Claim the only work that is ready."""
    with engine.begin() as connection:
        process = processes.register(connection, ProcessKind.DISPATCHER)
        (lease,) = claims.claim_planning(connection, process, count=1)
    return lease


def measure(stack: Stack, request: dict[str, Any], images: int) -> list[str]:
    """Plan and finalize one job. Returns the row of the table."""
    engine = stack.engine("dispatcher")
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("TRUNCATE work, outputs, jobs CASCADE"))
    job_id = stack.submit(request)
    with Watch(stack) as watch:
        begun = time.perf_counter()
        assert planner.plan_job(engine, stack.store(), claim(engine)) is None
        planned_s = time.perf_counter() - begun
        finish_sampling(stack, job_id, images, all_stored="items" in request)
        lease = claim(engine)
        begun = time.perf_counter()
        finalizer.finalize(engine, stack.store(), lease)
        finalized_s = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    name = "items" if "items" in request else "lines"
    return [name, f"{images:,}", f"{planned_s:.1f}", f"{finalized_s:.1f}", f"{watch.longest_s:.2f}", f"{peak}"]


def finish_sampling(stack: Stack, job_id: uuid.UUID, images: int, *, all_stored: bool) -> None:
    """End all sampling of the job, and open its finalizing."""
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE work SET state = 'done' WHERE kind = 'sample'"))
        if all_stored:
            connection.execute(text(STORE_ALL), {"id": job_id, "count": images})
            connection.execute(text("UPDATE jobs SET succeeded = total"))
        connection.execute(text("SELECT open_finalizing(ARRAY[CAST(:id AS uuid)])"), {"id": job_id})


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=62_000, help="n, in thousands; default 62000")
    first = parser.parse_args().images
    table = Table("items", "images", "planned, s", "finalized, s", "longest transaction, s", "peak memory, MiB")
    with fresh_stack() as stack:
        for images in (first, 4 * first, 16 * first):
            items = {"items": [{"class_label": 1}] * (images // 1000), "images_per_item": 1000, "steps": 1}
            table.add_row(*measure(stack, items, images))
            key = "inputs/default/lines.jsonl"
            stack.store().put(key, LINES * (images // 2), content_type="application/jsonl")
            table.add_row(*measure(stack, {"input_uri": key, "steps": 1}, images))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
