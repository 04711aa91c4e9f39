"""Jobs whose items are the lines of an object in S3: JSON Lines, read as a stream and never held as a whole.

A line that is not a valid item fails alone, and the error names its number. Every read names the object's ETag, so
that an input that is replaced while its job runs is detected instead of mixed.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from jsonschema import Draft202012Validator

from services.errors import quote
from services.job_queue.leases import Lease
from services.job_queue.plan import Item, Plan
from services.job_requests.canvas import CANVAS
from services.job_requests.condition_images import ImageCheck
from services.job_requests.messages import MAX_DEPTH, JsonSchema, depth_exceeds, validation_messages
from services.job_requests.sampling_fields import sampling_mistakes
from services.job_requests.schema import MAX_METADATA, Limits, check_metadata, item_schema
from services.job_requests.strict_json import RequestError, parse_json
from services.storage.errors import ObjectReplaced
from services.storage.object_store import ObjectStore

MAX_LINE = 4 * 2**20  # bytes, the limit of a whole request in the table
MAX_INPUT = 16 * 2**30  # bytes of the object
CHUNK = 2**20  # bytes of one read
ECHOED = ("id", "metadata")  # fields of an item that are copied to its lines in the listings
COMPRESSED = {  # what is refused, by its first bytes
    b"\x1f\x8b": "a gzip file within a gzip file",
    b"PK\x03\x04": "a ZIP archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PAR1": "a Parquet file within a gzip file",
    b"PARE": "a Parquet file with an encrypted footer",
}


@dataclass(frozen=True)
class Line:
    """One line, counted from 0: bytes [start, stop) of the object, without the newline."""

    number: int
    start: int
    stop: int
    body: bytes | None  # None if it is longer than MAX_LINE


def split_lines(chunks: Iterator[bytes], *, number: int = 0, start: int = 0) -> Iterator[Line]:
    """Yield the lines of a stream whose first byte is byte `start` of the object, and begins line `number`.

    The last line needs no newline.
    """
    kept, length = bytearray(), 0  # of the present line; the bytes of one that is too long are counted and not kept
    for chunk in chunks:
        parts = chunk.split(b"\n")
        for part in parts[:-1]:
            length += len(part)
            yield Line(number, start, start + length, bytes(kept) + part if length <= MAX_LINE else None)
            number, start, kept, length = number + 1, start + length + 1, bytearray(), 0
        length += len(parts[-1])
        if length <= MAX_LINE:
            kept += parts[-1]
        else:
            kept.clear()
    if length:
        yield Line(number, start, start + length, bytes(kept) if length <= MAX_LINE else None)


def call_for_each(chunks: Iterable[bytes], tick: Callable[[], None]) -> Iterator[bytes]:
    """Yield the chunks; `tick` is called for each."""
    for chunk in chunks:
        tick()
        yield chunk


class InputObject:
    """One version of the object whose lines are a job's items."""

    def __init__(self, store: ObjectStore, key: str, etag: str, size: int = 0) -> None:
        """size: in bytes, if it is known."""
        self.store, self.key, self.etag, self.size = store, key, etag, size

    @classmethod
    def open(cls, store: ObjectStore, key: str) -> "InputObject":
        """Return the present version of the object. Raises RequestError if there is no object."""
        head = store.head(key)
        if head is None:
            raise RequestError(f"input_uri: {store.uri(key)} does not exist, or the service may not read it")
        return cls(store, key, head["ETag"], head["ContentLength"])

    def starts_with(self, *marks: bytes) -> bool:
        """Return whether the object begins with one of these."""
        stop = min(self.size, max(map(len, marks)))
        first = b"".join(self.store.stream(self.key, etag=self.etag, stop=stop, chunk=CHUNK)) if stop else b""
        return first.startswith(marks)

    def lines(
        self, number: int = 0, start: int = 0, stop: int | None = None, tick: Callable[[], None] = lambda: None
    ) -> Iterator[Line]:
        """Yield the lines in bytes [start, stop); the first one is line `number`.

        tick: called for each chunk that was read, since one line may be all of the object. Raises ObjectStoreError if
        the object was replaced or removed, or may not be read.
        """
        body = self.store.stream(self.key, etag=self.etag, start=start, stop=stop, chunk=CHUNK)
        return split_lines(call_for_each(body, tick), number=number, start=start)

    def count(self, limit: int, tick: Callable[[], None]) -> int:
        """Return how many lines the object has, at most `limit` + 1.

        tick: called for each chunk that was read. Raises RequestError for none, too many bytes, and compressed ones.
        """
        lines = 0
        chunks = self.store.stream(self.key, etag=self.etag, chunk=CHUNK)
        if first := next(chunks, b""):
            refuse_compressed(self.key, first)
            chunks = chain([first], chunks)
        for number, lines in enumerate(count_lines(chunks)):
            tick()
            if lines > limit:
                return limit + 1
            if number * CHUNK > MAX_INPUT:
                raise RequestError(f"input_uri: {quote(self.key)} has more bytes than permitted: {MAX_INPUT}")
        if not lines:
            raise RequestError(f"input_uri: {quote(self.key)} has no lines; give one item a line")
        return lines


def refuse_compressed(key: str, start: bytes) -> None:
    """Raise RequestError if what begins with these bytes is compressed in a way that nothing unpacks."""
    for mark, what in COMPRESSED.items():
        if start.startswith(mark):
            raise RequestError(
                f"input_uri: {quote(key)} is {what}; permitted: lines of JSON in UTF-8, plain or gzip, or Parquet"
            )


def count_lines(chunks: Iterable[bytes]) -> Iterator[int]:
    """Yield how many lines a stream has had so far, once for each chunk and at its end; see `split_lines`."""
    count, is_open = 0, False
    for chunk in chunks:
        count += chunk.count(b"\n")
        is_open = not chunk.endswith(b"\n")
        yield count
    yield count + is_open


class ItemReader:
    """Reads items from lines, and validates them for one release, one tenant and the plan of their job."""

    def __init__(self, conditions: JsonSchema, limits: Limits, plan: Plan) -> None:
        self.plan, self.canvas = plan, conditions.get(CANVAS)
        self.check_images = ImageCheck(conditions, limits, plan)
        self.validator = Draft202012Validator(item_schema(conditions))

    def read(self, line: Line) -> Item:
        """Return the item of a line. Raises RequestError with everything that is wrong with it."""
        item = parse_line(line)
        self.check(item)
        return item

    def check(self, item: Item) -> None:
        """Raise RequestError with everything that is wrong with an item."""
        if problems := validation_messages(item, self.validator):
            raise RequestError("; ".join(problems))
        if mistakes := sampling_mistakes(self.plan, item, self.canvas):
            raise RequestError("; ".join(mistakes))
        check_metadata(item)
        self.check_images(item)


def parse_line(line: Line) -> Item:
    """Return the JSON object of a line. Raises RequestError if it has none."""
    if line.body is None:
        size = line.stop - line.start
        raise RequestError(f"a line of {size} bytes is not allowed; permitted: at most {MAX_LINE} bytes")
    item = parse_json(line.body)
    if not isinstance(item, dict):
        raise RequestError(f"{quote(item)} is not allowed; permitted: a JSON object")
    return item


def read_items(store: ObjectStore, plan: Plan, lease: Lease) -> dict[int, Item]:
    """Return the items of a shard by number, from the plan or from the lines that the planner has validated.

    Raises ObjectStoreError if the object was replaced or removed.
    """
    per_item = int(plan["images_per_item"])
    numbers = range(lease.start // per_item, (lease.stop - 1) // per_item + 1)
    if "input" not in plan:
        first = plan.get("first_item", 0)
        return {number: plan["items"][number - first] for number in numbers}
    assert lease.line_start is not None
    assert lease.byte_start is not None
    source = InputObject(store, plan["input"]["key"], plan["input"]["etag"])
    lines = source.lines(lease.line_start, lease.byte_start, lease.byte_stop)
    return {line.number: parse_item(line) for line in lines if line.number in numbers}


def echo_fields(item: Item) -> Item:
    """Return the fields of an item that listings repeat."""
    return {name: item[name] for name in ECHOED if name in item}


def archived_fields(item: Item) -> Item:
    """Return the fields of an item that archives repeat: all but long ones, such as images in base64."""
    sizes = {name: len(json.dumps(value, ensure_ascii=False).encode()) for name, value in item.items()}
    return {name: value for name, value in item.items() if sizes[name] <= MAX_METADATA}


class EchoReader:
    """Reads the echoed fields of items. Call it with numbers in ascending order: it reads an input object once.

    tick: called for each piece that was read. pick: which fields. problem: that the object was replaced or removed. Its
    items then have no fields. Raises ObjectStoreError if it may not be read.
    """

    def __init__(
        self, store: ObjectStore, plan: Plan, tick: Callable[[], None], pick: Callable[[Item], Item] = echo_fields
    ) -> None:
        self.problem: str | None = None
        self._pick = pick
        self._items = plan.get("items", ())
        self._lines: Iterator[Line] | None = None
        if "input" in plan:
            self._lines = InputObject(store, plan["input"]["key"], plan["input"]["etag"]).lines(tick=tick)
        self._latest, self._fields = -1, Item()

    def __call__(self, number: int) -> Item:
        """Return the fields of item `number`."""
        if self._lines is None:
            return self._pick(self._items[number])
        while self._latest < number and self.problem is None:
            try:
                line = next(self._lines)
            except ObjectReplaced as error:  # before the first line: a read that has begun is of the pinned version
                self.problem = str(error)
                break
            self._latest = line.number
            if line.number == number:
                self._fields = self._pick(parse_item(line))
        return self._fields


def limit_echo(fields: Item) -> Item:
    """Return the fields without those that no valid line has, because they are too long or nested too deeply.

    A thousand images of a line that is not valid may repeat them.
    """

    return {
        name: value
        for name, value in fields.items()
        if not depth_exceeds(value, MAX_DEPTH) and len(json.dumps(value, ensure_ascii=False).encode()) <= MAX_METADATA
    }


def parse_item(line: Line) -> Item:
    """Return the JSON object of a line, or an empty one for an invalid line, whose images the planner has settled."""
    try:
        return parse_line(line)
    except RequestError:
        return {}
