"""Cuts the items of a job, which are in its request or are the lines of an object, into batches of shards."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from services.job_queue.plan import Item, Plan
from services.job_queue.planning import Batch, Shard
from services.job_requests.chains import costs_of
from services.job_requests.image_spec import evaluations_in_turn, image_cost, image_spec

SHARD_IMAGES = 16  # small enough that a lost process loses little, large enough to fill a batch
BATCH_IMAGES = 16_000  # of one transaction: about a thousand shards
BATCH_ERRORS = 2**20  # characters of errors in one transaction


class ItemCost(NamedTuple):
    """What each image of an item costs; nothing if the item cannot be used.

    evaluations: of the network, in all stages of a chain, at least 1. area: of the image of the first stage, in areas
    of the release's own size. depth: evaluations of the first stage, one after the other.
    """

    evaluations: int = 0
    area: float = 0.0
    depth: int = 0


NO_COST = ItemCost()


@dataclass(frozen=True)
class PlannedItem:
    """An item to plan: what one of its images costs, or why it cannot be used.

    bytes: [start, stop) of its line, if it is the line of an object.
    """

    number: int
    cost: ItemCost = NO_COST
    error: str | None = None
    bytes: tuple[int, int] | None = None


def request_items(plan: Plan) -> Iterator[PlannedItem]:
    """Yield the items that a request lists."""
    later = sum(costs_of(plan))
    return (PlannedItem(number, item_cost(plan, item, later)) for number, item in enumerate(plan["items"]))


def item_cost(plan: Plan, item: Item, later: int) -> ItemCost:
    """Return what each image of an item costs. later: the sum of `costs_of` the plan."""
    spec = image_spec(plan, item, 0)
    return ItemCost(image_cost(spec) + later, spec.growth, evaluations_in_turn(spec))


def cut_batches(items: Iterable[PlannedItem], per_item: int, planned_to: int = 0) -> Iterator[Batch]:
    """Yield the images of items in batches of about BATCH_IMAGES, by index, but not those before `planned_to`.

    planned_to: where an earlier batch ended. Each shard has SHARD_IMAGES consecutive images, the last of a batch fewer.
    """
    batch = _OpenBatch(planned_to, per_item)
    for item in items:
        if item.number * per_item < planned_to:
            continue
        batch.add(item)
        if batch.is_full:
            yield batch.close()
            batch = _OpenBatch(batch.stop, per_item)
    if batch.stop > batch.start:
        yield batch.close()


@dataclass
class _OpenShard:
    start: int
    first: PlannedItem
    last: PlannedItem
    stop: int
    cost: int = 0


class _OpenBatch:
    """A batch to which items are added."""

    def __init__(self, start: int, per_item: int) -> None:
        self.start = self.stop = start
        self._per_item = per_item
        self._shards: list[Shard] = []
        self._errors: dict[int, str] = {}
        self._error_size = 0
        self._open: _OpenShard | None = None

    @property
    def is_full(self) -> bool:
        return self.stop - self.start >= BATCH_IMAGES or self._error_size >= BATCH_ERRORS

    def add(self, item: PlannedItem) -> None:
        if item.error is not None:
            self._errors[item.number] = item.error
            self._error_size += len(item.error)
        end = self.stop + self._per_item
        while self.stop < end:
            shard = self._open = self._open or _OpenShard(self.stop, item, item, self.stop)
            count = min(end - self.stop, shard.start + SHARD_IMAGES - self.stop)
            shard.cost += item.cost.evaluations * count
            shard.last = item
            shard.stop = self.stop = self.stop + count
            if shard.stop - shard.start == SHARD_IMAGES:
                self._close_shard()

    def close(self) -> Batch:
        self._close_shard()
        return Batch(self.start, self.stop, self._shards, self._errors)

    def _close_shard(self) -> None:
        shard, self._open = self._open, None
        if shard is None or not shard.cost:  # no item of it can be used
            return
        first, last = shard.first, shard.last
        lines = (first.number, first.bytes[0], last.bytes[1]) if first.bytes and last.bytes else ()
        self._shards.append(Shard(shard.start, shard.stop, shard.cost, *lines))
