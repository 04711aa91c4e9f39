"""Jobs whose items are lines of an object in S3: JSON Lines, read as a stream and never held whole.

A line that does not fit fails alone, with its number. Reading names the object's ETag, so that an input that is
replaced while its job runs is noticed rather than mixed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from services.job_queue.leases import Lease
from services.job_requests.condition_images import check_references
from services.job_requests.messages import validation_messages
from services.job_requests.schema import Limits, RequestError, item_schema, parse_json
from services.storage.object_store import ObjectStore

MAX_LINE = 4 * 2**20  # bytes, like a whole request in the table
CHUNK = 2**20


@dataclass(frozen=True)
class Line:
    """One line, counted from 0: bytes [start, stop) of the object, without the line's end."""

    number: int
    start: int
    stop: int
    body: bytes | None  # None: longer than MAX_LINE


def split_lines(chunks: Iterator[bytes], *, number: int = 0, start: int = 0) -> Iterator[Line]:
    """The lines of a stream of bytes that begins with line `number` at byte `start`. An end without newline counts."""
    kept, length = b"", 0  # of the line so far; what is too long is counted and not kept
    for chunk in chunks:
        parts = chunk.split(b"\n")
        for part in parts[:-1]:
            length += len(part)
            yield Line(number, start, start + length, kept + part if length <= MAX_LINE else None)
            number, start, kept, length = number + 1, start + length + 1, b"", 0
        length += len(parts[-1])
        kept = kept + parts[-1] if length <= MAX_LINE else b""
    if length:
        yield Line(number, start, start + length, kept if length <= MAX_LINE else None)


class Items:
    """Reads the items of one object's lines."""

    def __init__(self, store: ObjectStore, key: str, etag: str) -> None:
        self.store, self.key, self.etag = store, key, etag

    @classmethod
    def open(cls, store: ObjectStore, key: str) -> "Items":
        """The object as it is now. Raises RequestError where there is none."""
        etag = store.etag(key)
        if etag is None:
            raise RequestError(f"input_uri: {store.uri(key)} does not exist, or the service may not read it")
        return cls(store, key, etag)

    def lines(self, number: int = 0, start: int = 0, stop: int | None = None) -> Iterator[Line]:
        """Lines from `number` on, which begins at byte `start`, to byte `stop`.

        Raises ObjectStoreError where the object was changed.
        """
        body = self.store.stream(self.key, etag=self.etag, start=start, stop=stop, chunk=CHUNK)
        return split_lines(body, number=number, start=start)


class ItemReader:
    """Makes items of lines, for one release's conditions and what a tenant may read."""

    def __init__(self, conditions: Mapping[str, Any], limits: Limits) -> None:
        self.conditions, self.limits = conditions, limits
        self.validator = Draft202012Validator(item_schema(conditions))

    def read(self, line: Line) -> dict[str, Any]:
        """The item of a line. Raises RequestError saying what is wrong with it."""
        if line.body is None:
            raise RequestError(f"{line.stop - line.start} bytes are too long; permitted: {MAX_LINE}")
        item = parse_json(line.body)
        if not isinstance(item, dict):
            raise RequestError("not a JSON object")
        if problems := validation_messages(item, self.validator):
            raise RequestError("; ".join(problems))
        check_references(item, self.conditions, self.limits)
        return item


def read_items(store: ObjectStore, plan: Mapping[str, Any], lease: Lease) -> dict[int, Any]:
    """The items of a shard by their number, from the plan or from its lines, which the planner has checked.

    Raises ObjectStoreError where the object was changed.
    """
    per_item = int(plan["images_per_item"])
    numbers = range(lease.start // per_item, (lease.stop - 1) // per_item + 1)
    if "input" not in plan:
        return {number: plan["items"][number] for number in numbers}
    assert lease.line_start is not None
    assert lease.byte_start is not None
    items = Items(store, plan["input"]["key"], plan["input"]["etag"])
    found = items.lines(lease.line_start, lease.byte_start, lease.byte_stop)
    return {line.number: parse_item(line) for line in found if line.number in numbers}


ECHOED = ("id", "metadata")


def echo_reader(store: ObjectStore, plan: Mapping[str, Any]) -> Callable[[int], dict[str, Any]]:
    """What is echoed of an item, by its number; numbers are asked for in rising order, so lines are read once."""
    if "input" not in plan:
        return lambda number: echo_fields(plan["items"][number])
    stream = Items(store, plan["input"]["key"], plan["input"]["etag"]).lines()
    latest: list[Line] = []

    def echo(number: int) -> dict[str, Any]:
        while not latest or latest[-1].number < number:
            latest[:] = [next(stream)]
        return echo_fields(parse_item(latest[-1]))

    return echo


def echo_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """What is echoed of an item."""
    return {name: item[name] for name in ECHOED if name in item}


def parse_item(line: Line) -> dict[str, Any]:
    """The JSON object of a line; an empty one for a line that is none, whose images the planner has settled."""
    try:
        item = parse_json(line.body or b"")
    except RequestError:
        return {}
    return item if isinstance(item, dict) else {}
