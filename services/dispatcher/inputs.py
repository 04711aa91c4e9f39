"""The input of a job: one plain object is read where it is; others are unpacked once, to an object of the job's own.

{prefix}/{job_id}/input-7.jsonl    the lines of all objects; 7 is the token of the lease under which it was written
{prefix}/{job_id}/input-7.json     which object each line is from, if there are several

Workers read single lines of it by their bytes, which gzip and Parquet files do not allow.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Protocol

from services.job_queue.plan import InputReference
from services.job_requests.gzip_stream import GZIP
from services.job_requests.items import InputObject, Line
from services.job_requests.packed_input import InputPart, LineNames, PackedInput, PartLines, list_parts
from services.job_requests.parquet_stream import PARQUET
from services.storage.object_store import ObjectStore
from services.storage.streaming import StreamedObject

MAX_OBJECT_LIST = 16 * 2**20  # bytes of the list of an input's objects


class LineSource(Protocol):
    """What has the lines of an input."""

    def lines(self, *, tick: Callable[[], None]) -> Iterator[Line]:
        """Yield all lines. tick: called for each piece that was read."""
        ...


@dataclass(frozen=True)
class OpenInput:
    """An input as planning reads it. reference: what the plan keeps of it. count: its lines, at most the limit + 1."""

    reference: InputReference
    source: LineSource
    count: int
    names: LineNames


class _TooManyLines(Exception):
    """The job will be rejected, so nothing is to be stored."""


def open_input(store: ObjectStore, key: str, target: str | None, limit: int, tick: Callable[[], None]) -> OpenInput:
    """Open the object of a key, or all objects under a key that ends in a slash, and count the lines.

    target: where to unpack what is not one plain object, without a suffix; None to store nothing. limit: of lines.
    tick: called often. Raises RequestError for what cannot be read.
    """
    if key.endswith("/"):
        packed = PackedInput(store, list_parts(store, key))
    else:
        plain = InputObject.open(store, key)
        if not plain.starts_with(GZIP, PARQUET):
            return OpenInput({"key": key, "etag": plain.etag}, plain, plain.count(limit, tick), LineNames())
        packed = PackedInput(store, [InputPart(key, plain.etag, plain.size)])
    if target is None:
        count, starts = packed.copy(lambda piece: None, limit, tick)
        return OpenInput({"key": key}, packed, count, name_lines(key, starts))
    try:
        with StreamedObject(store, f"{target}.jsonl", content_type="application/jsonl") as unpacked:
            count, starts = packed.copy(unpacked.write, limit, tick)
            if count > limit:
                raise _TooManyLines
    except _TooManyLines:
        return OpenInput({"key": key}, packed, limit + 1, LineNames())
    reference = InputReference(key=unpacked.key, etag=store.etag(unpacked.key) or "")
    if key.endswith("/"):
        body = json.dumps({"prefix": key, "objects": [asdict(part) for part in starts]}).encode()
        store.put(f"{target}.json", body, content_type="application/json")
        reference["objects"] = f"{target}.json"
    return OpenInput(reference, InputObject(store, reference["key"], reference["etag"]), count, name_lines(key, starts))


def reopen_input(store: ObjectStore, reference: InputReference) -> tuple[InputObject, LineNames]:
    """Return the input that a plan refers to."""
    names = LineNames()
    if "objects" in reference:
        # Another program may have replaced it. Lines then have numbers alone.
        with suppress(ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            found = json.loads(store.get_at_most(reference["objects"], MAX_OBJECT_LIST))
            parts = [PartLines(str(part["key"]), int(part["first"])) for part in found["objects"]]
            names = name_lines(str(found["prefix"]), parts)
    return InputObject(store, reference["key"], reference["etag"]), names


def name_lines(key: str, starts: list[PartLines]) -> LineNames:
    """Return names of lines: those of several objects have the object's name, too."""
    return LineNames(key, starts) if key.endswith("/") else LineNames()
