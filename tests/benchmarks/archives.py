"""What it takes to write images that are stored to archives, and to find archives that are stored.

    python -m tests.benchmarks.archives

It runs a store of its own. Memory is what the process has beyond its start.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil

from services.dispatcher.archives import write_archives
from services.job_queue.outputs import Output
from services.job_queue.plan import Plan
from services.local_stack import lifecycle
from services.storage.object_store import ObjectStore
from tests.support.stack import start_stack

CASES = ((4_000, 2_000), (150, 4_000_000))  # images, and bytes of each


def store_images(store: ObjectStore, prefix: str, count: int, size: int) -> list[Output]:
    """Store images that do not compress, and return their records."""

    def put(index: int) -> Output:
        body, key = os.urandom(size), f"{prefix}/images/{index:08d}.png"
        store.client.put_object(Bucket=store.bucket, Key=key, Body=body)
        return Output(index, index, index, key, hashlib.sha256(body).hexdigest(), size, "p")

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(put, range(count)))


def measure(write: Callable[[Callable[[], None]], int]) -> str:
    """Return what writing took. write: calls its argument after each image, and returns how many archives there are."""
    process, peak = psutil.Process(), 0
    before, began, cpu = process.memory_info().rss, time.monotonic(), time.process_time()

    def tick() -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    archives = write(tick)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    memory = max(peak - before, 0) / 2**20
    return f"{archives} archives, {wall:.1f} s, {cpu:.1f} s of a core, {memory:.0f} MiB"


def main() -> None:
    """Print a line for each case, and one for a second attempt at it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o711)
        try:
            with closing(start_stack(root / "stack")) as stack:
                store = stack.store()
                for count, size in CASES:
                    prefix = f"outputs/default/{count}"
                    images = store_images(store, prefix, count, size)
                    items = [{"class_label": 1} for _ in images]
                    plan: Plan = {"items": items, "output": {"archive": "tar"}}  # type: ignore[typeddict-item]

                    def write(tick: Callable[[], None]) -> int:
                        return len(list(write_archives(store, plan, f"{prefix}/archive-", images, tick)))  # noqa: B023

                    print(f"{count} images of {size} bytes: {measure(write)}; again: {measure(write)}", flush=True)
        finally:
            lifecycle.stop(root / "stack")


if __name__ == "__main__":
    main()
