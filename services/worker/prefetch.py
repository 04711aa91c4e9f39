"""Reads the items of the next shards from S3, and prepares their images, while the engine samples the present ones."""

import time
from collections import Counter
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

CAPACITY = 2  # shards that are read at the same time, of those that are not late; and of one tenant
LATE_S = 2.0  # after which a shard that is still read keeps no other tenant's waiting
MOST = 16  # shards that are read or wait, late ones included, after which no more are claimed


@dataclass
class PrefetchedShard:
    """A shard and its images by index, or why an image cannot be made. error: why no item could be read."""

    shard: HeldShard
    images: dict[int, ImageRequest | Output] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True)
class _Reading:
    """A shard that is being read, or waits for a thread of its tenant. since: when it was added."""

    shard: HeldShard
    result: Future[PrefetchedShard]
    since: float

    @property
    def is_late(self) -> bool:
        return not self.result.done() and time.monotonic() - self.since > LATE_S


class Prefetcher:
    """Reads the items of shards and prepares their images in a few threads.

    No more than CAPACITY images of a tenant's conditions are decoded at the same time. A shard that takes long, because
    its images are large or S3 is slow, does not delay one that was added after it, unless it is of the same tenant.

    One thread alone may call `add` and `take`. on_ready: called in another thread when a shard has been read.
    """

    def __init__(self, store: ObjectStore, on_ready: Callable[[], None]) -> None:
        self.store, self._on_ready = store, on_ready
        self._pools: dict[str, ThreadPoolExecutor] = {}  # by tenant
        self._shards: list[_Reading] = []

    @property
    def busy(self) -> bool:
        """Whether a shard is being read or waits to be taken."""
        return bool(self._shards)

    @property
    def images(self) -> int:
        """How many images the shards have that are being read or wait to be taken, but for late ones."""
        return sum(len(one.shard.unsettled) for one in self._shards if not one.is_late)

    @property
    def has_room(self) -> bool:
        """Whether another shard may be added."""
        return len(self._shards) < MOST and sum(not one.is_late for one in self._shards) < CAPACITY

    def slow_tenants(self) -> list[str]:
        """Return the tenants whose shards are late, as many as are read at the same time."""
        late = Counter(one.shard.lease.tenant for one in self._shards if one.is_late)
        return [tenant for tenant, count in late.items() if count >= CAPACITY]

    def add(self, shard: HeldShard, engine: Engine[HeldShard]) -> None:
        """Start to read a shard's items, whose images `engine` will sample."""
        tenant = shard.lease.tenant
        if tenant not in self._pools:
            self._pools[tenant] = ThreadPoolExecutor(CAPACITY, thread_name_prefix="prefetch")
        future = self._pools[tenant].submit(self._fetch, shard, engine)
        self._shards.append(_Reading(shard, future, time.monotonic()))
        future.add_done_callback(lambda _: self._on_ready())

    def take(self) -> PrefetchedShard | None:
        """Return a shard that has been read, or None if there is none."""
        for one in self._shards:
            if one.result.done():
                self._shards.remove(one)
                self._end_unused()
                return one.result.result()
        return None

    def stop(self) -> None:
        """Start no more reads."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _end_unused(self) -> None:
        """End the threads of tenants that have no shard here."""
        for tenant in self._pools.keys() - {one.shard.lease.tenant for one in self._shards}:
            self._pools.pop(tenant).shutdown(wait=False)

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
