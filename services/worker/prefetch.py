"""Reads the items of the next shards from S3 while the engine samples the present ones."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from services.job_queue.plan import Item
from services.job_requests.condition_images import fetch_images
from services.job_requests.items import read_items
from services.storage.object_store import ObjectStore
from services.worker.held_shards import HeldShard

CAPACITY = 2  # shards that are read at the same time


@dataclass
class PrefetchedShard:
    """A shard and its items by number. problems: why an item cannot be used. error: why no item could be read."""

    shard: HeldShard
    items: dict[int, Item] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None


class Prefetcher:
    """Reads the items of shards in a few threads, and returns the shards in the order in which they were added.

    One thread alone may call `add` and `take`. on_ready: called in another thread when a shard has been read.
    """

    def __init__(self, store: ObjectStore, on_ready: Callable[[], None]) -> None:
        self.store, self._on_ready = store, on_ready
        self._pool = ThreadPoolExecutor(CAPACITY, thread_name_prefix="prefetch")
        self._shards: deque[Future[PrefetchedShard]] = deque()

    @property
    def busy(self) -> bool:
        """Whether a shard is being read or waits to be taken."""
        return bool(self._shards)

    @property
    def has_room(self) -> bool:
        """Whether another shard may be added."""
        return len(self._shards) < CAPACITY

    def add(self, shard: HeldShard) -> None:
        """Start to read a shard's items."""
        future = self._pool.submit(self._fetch, shard)
        self._shards.append(future)
        future.add_done_callback(lambda _: self._on_ready())

    def take(self) -> PrefetchedShard | None:
        """Return the shard that was added first, or None if it has not been read yet."""
        return self._shards.popleft().result() if self._shards and self._shards[0].done() else None

    def stop(self) -> None:
        """Start no more reads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, shard: HeldShard) -> PrefetchedShard:
        prefetched = PrefetchedShard(shard)
        # The planner has settled the images of lines that it refused. They are skipped: they may refer to any object.
        numbers = {index // int(shard.plan["images_per_item"]) for index in shard.unsettled}
        try:
            items = read_items(self.store, shard.plan, shard.lease)
            read_at = datetime.fromisoformat(shard.plan["read_at"]) if "read_at" in shard.plan else None
            for number, item in ((number, items[number]) for number in numbers):
                try:
                    prefetched.items[number] = fetch_images(item, shard.manifest["conditions"], self.store, read_at)
                except ValueError as error:
                    prefetched.problems[number] = str(error)
        except Exception as error:
            prefetched.error = error
        return prefetched
