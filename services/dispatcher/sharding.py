"""Shards of a planned job, whose items are in its request or are the lines of an object in S3."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from services.job_queue import outputs
from services.job_queue.leases import Lease
from services.job_queue.outputs import Output
from services.job_queue.plan import Item, Plan
from services.job_queue.turns import Shard
from services.job_requests.image_spec import image_cost, image_spec
from services.job_requests.items import InputObject, ItemReader, Line
from services.job_requests.schema import Limits, RequestError, check_count
from services.storage.object_store import ObjectStore

SHARD_IMAGES = 16  # small enough that a lost process loses little, large enough to fill a batch


def item_image_cost(plan: Plan, item: Item, index: int) -> int:
    """Return the network evaluations of image `index`, which belongs to `item`."""
    return image_cost(image_spec(plan, item, index))


def unsettled_shards(connection: Connection, lease: Lease, shards: Iterator[Shard]) -> Iterator[Shard]:
    """Yield the shards that have images to make: those of which an earlier revision did not settle all."""
    for shard in shards:
        if len(outputs.settled_indices(connection, lease.job_id, shard.start, shard.stop)) < shard.stop - shard.start:
            yield shard


class RequestShards:
    """The shards of a job whose request lists its items: at most SHARD_IMAGES consecutive images each."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.item_count = len(plan.get("items", ()))

    def __iter__(self) -> Iterator[Shard]:
        per_item, items = self.plan["images_per_item"], self.plan["items"]
        total = self.item_count * per_item
        for start in range(0, total, SHARD_IMAGES):
            stop = min(start + SHARD_IMAGES, total)
            yield Shard(
                start, stop, sum(item_image_cost(self.plan, items[i // per_item], i) for i in range(start, stop))
            )


@dataclass(frozen=True)
class ParsedLine:
    """A line and its item, None if the line is not a valid item."""

    line: Line
    item: Item | None


class LineShards:
    """The shards of a job whose items are lines. Iterating settles the images of lines that are not valid as failed.

    plan: names the object's ETag, so that a worker notices if the object was replaced.
    item_count: how many lines were read so far.
    """

    def __init__(
        self,
        connection: Connection,
        store: ObjectStore,
        lease: Lease,
        plan: Plan,
        rules: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        source = plan["input"]
        if "etag" in source:
            self.items = InputObject(store, source["key"], source["etag"])
        else:
            self.items = InputObject.open(store, source["key"])
        self.plan: Plan = {**plan, "input": {"key": self.items.key, "etag": self.items.etag}}
        self.item_count = 0
        self._connection, self._lease, self._limits = connection, lease, limits
        self._reader = ItemReader(rules, limits)
        self._per_item = int(plan["images_per_item"])
        self._ids: set[str] = set()

    def __iter__(self) -> Iterator[Shard]:
        """Read the object once and yield its shards. Raises RequestError if it is empty or has too many lines."""
        lines_per_shard = max(1, SHARD_IMAGES // self._per_item)
        group: list[ParsedLine] = []
        for line in self.items.lines():
            self.item_count += 1
            check_count(self.item_count * self._per_item, self._limits)
            group.append(ParsedLine(line, self._parse_or_fail(line)))
            if len(group) == lines_per_shard:
                yield from self._shards(group)
                group = []
        yield from self._shards(group)
        if not self.item_count:
            raise RequestError(f"input_uri: {self.items.key!r} has no lines; give one item a line")

    def _parse_or_fail(self, line: Line) -> Item | None:
        """Return the item of a line; if it is not valid, settle its images as failed and return None."""
        try:
            item = self._reader.read(line)
            if (name := item.get("id")) in self._ids:
                raise RequestError(f"the id {name!r} is that of an earlier line")
        except RequestError as error:
            first = line.number * self._per_item
            failed = [
                Output.failure(index, line.number, f"line {line.number + 1}: {error}")
                for index in range(first, first + self._per_item)
            ]
            outputs.record_outputs(self._connection, self._lease.job_id, failed)
            return None
        if name is not None:
            self._ids.add(name)
        return item

    def _shards(self, group: list[ParsedLine]) -> Iterator[Shard]:
        """Yield the shard of a few lines, or several of one line that asks for many images."""
        if not any(parsed.item is not None for parsed in group):
            return
        first, last = group[0].line, group[-1].line
        group_start, group_stop = first.number * self._per_item, (last.number + 1) * self._per_item
        for start in range(group_start, group_stop, SHARD_IMAGES):
            stop = min(start + SHARD_IMAGES, group_stop)
            items = [(index, group[index // self._per_item - first.number].item) for index in range(start, stop)]
            cost = sum(item_image_cost(self.plan, item, index) for index, item in items if item is not None)
            yield Shard(start, stop, cost, first.number, first.start, last.stop)
