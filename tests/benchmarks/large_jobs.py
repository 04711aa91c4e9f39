"""What jobs of n, 4n and 16n images cost: `python -m tests.benchmarks.large_jobs [--images N]`.

A real dispatcher plans them, runs into their deadline, cancels them, plans them again and finalizes them, and
`darkroom prune` deletes them. No worker runs: one statement records images as stored, and they have no objects. Half of
the lines of an `input_uri` do not fit. Reports of each step the seconds, the longest transaction of the service and of
the client, and the peak memory of the process.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import peak_memory_mib
from tests.support.stack import Process, Stack, fresh_stack
from tests.support.tenants import Tenant, administrator, make_tenant

LINES = b'{"class_label": 1}\n{}\n'
STORE = """
    INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile)
    SELECT %(id)s, i, i / %(per_item)s, i, 'outputs/' || i, repeat('0', 64), 1000, 'cpu'
    FROM generate_series(0, %(images)s - 1, %(step)s) AS i ON CONFLICT DO NOTHING
"""
COUNT = """
    UPDATE jobs SET succeeded = (SELECT count(*) FROM outputs WHERE job_id = id AND error IS NULL) WHERE id = %s
"""
LONGEST = """
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 AS seconds FROM pg_stat_activity
    WHERE usename = ANY(%s) AND xact_start IS NOT NULL
"""
IS_PLANNED = """
    SELECT state <> 'submitted' AND NOT EXISTS (
        SELECT FROM work WHERE job_id = jobs.id AND kind = 'plan' AND state IN ('ready', 'delayed', 'leased'))
    FROM jobs WHERE id = %s
"""
HAS_ENDED = "SELECT finished_at IS NOT NULL FROM jobs WHERE id = %s"
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Cost:
    """Of one step: seconds, the longest transaction in seconds, the peak memory in MiB."""

    seconds: float
    transaction_s: float
    memory_mib: float


class Watch:
    """Samples every 20 ms for how long transactions of the service and of the client have been open."""

    def __init__(self, stack: Stack, client: Tenant) -> None:
        self.longest_s = 0.0
        self._logins = [str(stack.engine(role).url.username) for role in ("dispatcher", "pruner")] + [client.login]
        self._stack, self._ended = stack, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        with administrator(self._stack) as connection:
            while not self._ended.wait(0.02):
                row = connection.execute(LONGEST, (self._logins,)).fetchone()
                self.longest_s = max(self.longest_s, row.seconds if row else 0.0)


class Bench:
    """One stack with one dispatcher, whose steps are measured."""

    def __init__(self, stack: Stack, client: Tenant, dispatcher: Process) -> None:
        self.stack, self.client, self.dispatcher = stack, client, dispatcher
        self.owner = administrator(stack)
        self.costs: dict[str, Cost] = {}

    def measure(self, name: str, act: Callable[[], Any], job_id: uuid.UUID | None, until: str = "") -> Any:
        """Do something, and wait until a query is true of the job. Returns what `act` has returned."""
        Path(f"/proc/{self.dispatcher.child.pid}/clear_refs").write_text("5")  # begins a new peak
        with Watch(self.stack, self.client) as watch:
            began = time.monotonic()
            result = act()
            while until and not self.owner.execute(until, (job_id or result,)).fetchall()[0][0]:
                assert self.dispatcher.child.poll() is None, self.dispatcher.log.read_text()[-4000:]
                assert time.monotonic() - began < TIMEOUT_S, name
                time.sleep(0.02)
            seconds = time.monotonic() - began
        memory = result if isinstance(result, float) else peak_memory_mib(self.dispatcher.child.pid)
        self.costs[name] = Cost(seconds, watch.longest_s, memory)
        print(f"  {name}: {seconds:.1f} s, transaction {watch.longest_s:.2f} s, {memory:.0f} MiB", flush=True)
        return result

    def call(self, function: str, job_id: uuid.UUID) -> None:
        """Call a function of the SQL contract as the client."""
        with self.client.connect() as connection:
            connection.execute(f"SELECT {function}(%s)", (job_id,))

    def store(self, job_id: uuid.UUID, images: int, step: int, per_item: int) -> None:
        """Record every `step`th image as stored, and end all sampling."""
        self.owner.execute("UPDATE work SET state = 'done' WHERE job_id = %s AND kind = 'sample'", (job_id,))
        self.owner.execute(STORE, {"id": job_id, "images": images, "step": step, "per_item": per_item})
        self.owner.execute(COUNT, (job_id,))

    def finalize(self, name: str, job_id: uuid.UUID, state: str) -> None:
        self.measure(
            name, lambda: self.owner.execute("SELECT open_finalizing(ARRAY[%s::uuid])", (job_id,)), job_id, HAS_ENDED
        )
        assert self.client.job(job_id).state == state, self.client.job(job_id)

    def prune(self, name: str, job_id: uuid.UUID) -> None:
        self.owner.execute("UPDATE jobs SET finished_at = now() - interval '9 days' WHERE id = %s", (job_id,))
        self.measure(name, self._prune, None)
        assert self.client.job(job_id) is None

    def _prune(self) -> float:
        """Run `darkroom prune`. Returns its peak memory in MiB."""
        environment = {**os.environ, "DARKROOM_ROOT": str(self.stack.root)}
        child = subprocess.Popen([sys.executable, "-m", "services.cli", "prune"], env=environment)
        memory = 0.0
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            with suppress(AssertionError):  # it has ended
                memory = peak_memory_mib(child.pid)
            time.sleep(0.02)
        assert child.wait() == 0
        return memory


def measure_items(bench: Bench, images: int) -> None:
    """A job whose request lists its items: it runs into its deadline, is tried again, cancelled, tried again, done."""
    request = {"items": [{"class_label": 1}] * (images // 1000), "images_per_item": 1000, "steps": 1}
    job_id = bench.measure("plan", lambda: bench.client.submit(request), None, IS_PLANNED)
    expire = "UPDATE jobs SET deadline = now() WHERE id = %s"
    bench.measure("run into the deadline", lambda: bench.owner.execute(expire, (job_id,)), job_id, HAS_ENDED)
    assert bench.client.job(job_id)[3:5] == (0, images)
    bench.measure("retry: the client's statement", lambda: bench.call("retry_job", job_id), job_id)
    bench.measure("retry: plan", lambda: None, job_id, IS_PLANNED)
    bench.measure("cancel", lambda: bench.call("cancel_job", job_id), job_id, HAS_ENDED)
    bench.call("retry_job", job_id)
    bench.measure("retry what was cancelled: plan", lambda: None, job_id, IS_PLANNED)
    bench.store(job_id, images, 1, 1000)
    bench.finalize("finalize", job_id, "succeeded")
    bench.prune("prune", job_id)


def measure_lines(bench: Bench, images: int) -> None:
    """A job whose items are lines, every second of which does not fit: done in part, tried again, deleted."""
    key = "inputs/default/lines.jsonl"
    bench.stack.store().put(key, LINES * (images // 2), content_type="application/jsonl")
    request = {"input_uri": key, "steps": 1}
    job_id = bench.measure("lines: plan", lambda: bench.client.submit(request), None, IS_PLANNED)
    bench.store(job_id, images, 2, 1)
    bench.finalize("lines: finalize", job_id, "partial")
    bench.measure("lines: retry: the client's statement", lambda: bench.call("retry_job", job_id), job_id)
    bench.measure("lines: retry: plan", lambda: None, job_id, IS_PLANNED)
    bench.store(job_id, images, 2, 1)
    bench.finalize("lines: retry: finalize", job_id, "partial")
    bench.prune("lines: prune", job_id)


def table(sizes: list[int], costs: list[dict[str, Cost]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    head = [f"{size:,} images, s" for size in sizes]
    lines = ["| | " + " | ".join([*head, "an image, last to first", "longest transaction, s", "memory, MiB"]) + " |"]
    lines.append("|---|" + "---:|" * (len(sizes) + 3))
    for name in costs[0]:
        found = [cost[name] for cost in costs]
        growth = found[-1].seconds / found[0].seconds / (sizes[-1] / sizes[0])
        numbers = [f"{cost.seconds:.1f}" for cost in found] + [f"{growth:.2f}"]
        numbers.append(f"{max(cost.transaction_s for cost in found):.2f}")
        numbers.append(f"{max(cost.memory_mib for cost in found):.0f}")
        lines.append(f"| {name} | " + " | ".join(numbers) + " |")
    return lines


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=62_000, help="n, in thousands; default 62000")
    first = parser.parse_args().images
    sizes, costs = [first, 4 * first, 16 * first], []
    with fresh_stack() as stack:
        client = make_tenant(stack, "large", retention_days=7, read_prefixes=["inputs/default"])
        for images in sizes:
            print(f"{images:,} images", flush=True)
            with stack.process("dispatcher", before_imports="pass", DARKROOM_STEP_LIMIT_S="30") as dispatcher:
                dispatcher.wait_for("serves")
                bench = Bench(stack, client, dispatcher)
                measure_items(bench, images)
                measure_lines(bench, images)
            costs.append(bench.costs)
    print("\n".join(table(sizes, costs)))


if __name__ == "__main__":
    main()
