"""Shards on their way to the engine: their items are read from S3 while it goes on with its steps."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from services.job_requests.condition_images import fetch_images
from services.job_requests.items import read_items
from services.storage.object_store import ObjectStore
from services.worker.held_shards import HeldShard

TOGETHER = 2  # shards that are read at a time: the next ones, and no stock


@dataclass
class Loaded:
    """A shard with its items by number. problems: why an item cannot be made. error: why none can be read."""

    shard: HeldShard
    items: dict[int, dict[str, Any]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None


class Loader:
    """Reads shards' items. Only one thread adds and takes; `ready` is called from others."""

    def __init__(self, store: ObjectStore, ready: Callable[[], None]) -> None:
        self.store, self._ready = store, ready
        self._pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix="load")
        self._under_way: deque[Future[Loaded]] = deque()

    @property
    def busy(self) -> bool:
        """Whether a shard is being read, or is read and not taken yet."""
        return bool(self._under_way)

    @property
    def has_room(self) -> bool:
        """Whether another one may be added."""
        return len(self._under_way) < TOGETHER

    def add(self, shard: HeldShard) -> None:
        """Begin to read a shard."""
        future = self._pool.submit(self._load, shard)
        self._under_way.append(future)
        future.add_done_callback(lambda _: self._ready())

    def take(self) -> Loaded | None:
        """The next shard in the order in which they were added, once it is read."""
        return self._under_way.popleft().result() if self._under_way and self._under_way[0].done() else None

    def stop(self) -> None:
        """Begin no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, shard: HeldShard) -> Loaded:
        loaded = Loaded(shard)
        # Lines that the planner refused, whose images are settled, are not looked at: they may refer to anything.
        wanted = {index // int(shard.plan["images_per_item"]) for index in shard.open}
        try:
            items = read_items(self.store, shard.plan, shard.lease)
            for number, item in ((number, items[number]) for number in wanted):
                try:
                    loaded.items[number] = fetch_images(item, shard.manifest["conditions"], self.store)
                except ValueError as error:
                    loaded.problems[number] = str(error)
        except Exception as error:
            loaded.error = error
        return loaded
