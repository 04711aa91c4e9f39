"""Reads the items of the next shards from S3, and prepares their images, while the engine samples the present ones."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from services.job_queue.outputs import Output
from services.job_queue.plan import Item
from services.job_requests.condition_images import fetch_images
from services.job_requests.image_spec import ImageSpec, image_spec
from services.job_requests.items import read_items
from services.job_requests.sampling_fields import merge
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from services.worker.engine import Engine
from services.worker.held_shards import HeldShard
from services.worker.images import ImageRequest
from training.errors import summarise

CAPACITY = 2  # shards that are read at the same time


@dataclass
class PrefetchedShard:
    """A shard and its images by index, or why an image cannot be made. error: why no item could be read."""

    shard: HeldShard
    images: dict[int, ImageRequest | Output] = field(default_factory=dict)
    error: Exception | None = None


class Prefetcher:
    """Reads the items of shards and prepares their images in a few threads.

    No more than CAPACITY images of conditions are decoded at the same time. A shard that takes long, because its images
    are large or S3 is slow, does not delay one that was added after it.

    One thread alone may call `add` and `take`. on_ready: called in another thread when a shard has been read.
    """

    def __init__(self, store: ObjectStore, on_ready: Callable[[], None]) -> None:
        self.store, self._on_ready = store, on_ready
        self._pool = ThreadPoolExecutor(CAPACITY, thread_name_prefix="prefetch")
        self._shards: deque[tuple[HeldShard, Future[PrefetchedShard]]] = deque()

    @property
    def busy(self) -> bool:
        """Whether a shard is being read or waits to be taken."""
        return bool(self._shards)

    @property
    def images(self) -> int:
        """How many images the shards have that are being read or wait to be taken."""
        return sum(len(shard.unsettled) for shard, _ in self._shards)

    @property
    def has_room(self) -> bool:
        """Whether another shard may be added."""
        return len(self._shards) < CAPACITY

    def add(self, shard: HeldShard, engine: Engine[HeldShard]) -> None:
        """Start to read a shard's items, whose images `engine` will sample."""
        future = self._pool.submit(self._fetch, shard, engine)
        self._shards.append((shard, future))
        future.add_done_callback(lambda _: self._on_ready())

    def take(self) -> PrefetchedShard | None:
        """Return a shard that has been read, or None if there is none."""
        for entry in self._shards:
            if entry[1].done():
                self._shards.remove(entry)
                return entry[1].result()
        return None

    def stop(self) -> None:
        """Start no more reads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, shard: HeldShard, engine: Engine[HeldShard]) -> PrefetchedShard:
        prefetched = PrefetchedShard(shard)
        try:
            per_item = int(shard.plan["images_per_item"])
            items = read_items(self.store, shard.plan, shard.lease)
            # The planner has settled the images of lines that it refused: they may refer to any object, so skip them.
            for number, indices in groupby(sorted(shard.unsettled), lambda index: index // per_item):
                item, stage = items[number], shard.stage
                if stage is not None and stage.takes is not None:  # an image of its own for each image
                    for index in indices:
                        prefetched.images |= self._prepare(shard, engine, item, [stage.spec(item, index)])
                    continue
                specs = [image_spec(shard.plan, item, index) for index in indices]
                prefetched.images |= self._prepare(shard, engine, item, specs)
        except Exception as error:
            prefetched.error = error
        return prefetched

    def _prepare(
        self, shard: HeldShard, engine: Engine[HeldShard], item: Item, specs: list[ImageSpec]
    ) -> dict[int, ImageRequest | Output]:
        """Prepare images of one item that have the same conditions. What is wrong with it fails them and no others."""
        read_at = datetime.fromisoformat(shard.plan["read_at"]) if "read_at" in shard.plan else None
        stage = shard.stage
        try:
            if stage is None or stage.takes is None:
                given = fetch_images(merge(shard.plan, item), engine.item_rules, self.store, read_at)
            else:
                given = {**stage.fields(item), stage.takes: stage.read_input(self.store, specs[0].index)}
            conditions = engine.read_conditions(given)
            return {spec.index: engine.request(spec, conditions) for spec in specs}
        except Exception as error:
            if is_transient(error) or isinstance(error, MemoryError | ConnectionError | TimeoutError):
                raise
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {summarise(error)}"
            return {spec.index: Output.failure(spec.index, spec.item, reason, seed=spec.seed) for spec in specs}
