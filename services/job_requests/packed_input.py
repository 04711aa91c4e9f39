"""Inputs that are not one plain object: gzip and Parquet files, and prefixes of objects, as one stream of lines."""

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

from services.errors import quote
from services.job_requests.gzip_stream import GZIP, gunzip
from services.job_requests.items import CHUNK, MAX_INPUT, Line, call_for_each, refuse_compressed, split_lines
from services.job_requests.parquet_stream import PARQUET, read_parquet
from services.job_requests.strict_json import RequestError
from services.storage.object_store import ObjectStore

MAX_OBJECTS = 1_000  # under a prefix


@dataclass(frozen=True)
class InputPart:
    """One version of an object of an input. size: in bytes."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True)
class PartLines:
    """An object of an input, and its first line in the whole stream, counted from 0."""

    key: str
    first: int


def list_parts(store: ObjectStore, prefix: str) -> list[InputPart]:
    """Return the objects under a prefix that ends in a slash, in the order of their keys; empty ones have no lines.

    Raises RequestError for none, and for more than MAX_OBJECTS, empty ones included.
    """
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=prefix)
    listed = (InputPart(one["Key"], one["ETag"], one["Size"]) for page in pages for one in page.get("Contents", ()))
    found = list(islice(listed, MAX_OBJECTS + 1))  # empty ones count, since millions of them take minutes to list
    if len(found) > MAX_OBJECTS:
        raise RequestError(f"input_uri: {quote(prefix)} has more objects than permitted: {MAX_OBJECTS}")
    parts = [part for part in found if part.size]
    if not parts:
        raise RequestError(f"input_uri: there is no object under {quote(prefix)}, or the service may not list it")
    return sorted(parts, key=lambda part: part.key.encode())


class PackedInput:
    """The objects of an input, plain, gzip or Parquet, one after another. Each begins a line.

    A reading names the ETags: an object that is replaced meanwhile ends it with ObjectStoreError.
    """

    def __init__(self, store: ObjectStore, parts: Sequence[InputPart]) -> None:
        self._store, self.parts = store, parts

    def lines(self, *, tick: Callable[[], None] = lambda: None) -> Iterator[Line]:
        """Yield the lines of all objects; their places are those in the whole stream. tick: called for each piece."""
        pieces = (piece for part in self.parts for piece in self._read(part))
        return split_lines(call_for_each(pieces, tick))

    def copy(self, write: Callable[[bytes], None], limit: int, tick: Callable[[], None]) -> tuple[int, list[PartLines]]:
        """Write the whole stream. Returns how many lines it has, at most `limit` + 1, and where each object begins.

        tick: called for each piece. Raises RequestError for no lines, too many bytes, and what cannot be unpacked.
        """
        lines = size = 0
        starts = []
        for part in self.parts:
            starts.append(PartLines(part.key, lines))
            with closing(self._read(part)) as pieces:
                for piece in call_for_each(pieces, tick):
                    lines, size = lines + piece.count(b"\n"), size + len(piece)
                    if lines > limit:
                        return limit + 1, starts
                    if size > MAX_INPUT:
                        raise RequestError(f"input_uri: {quote(part.key)} ends beyond the bytes permitted: {MAX_INPUT}")
                    write(piece)
        if not lines:
            raise RequestError(f"input_uri: {quote(self.parts[0].key)} has no lines; give one item a line")
        return lines, starts

    def _read(self, part: InputPart) -> Generator[bytes]:
        """Yield the lines of an object, unpacked, the last one with its newline."""
        chunks = self._store.stream(part.key, etag=part.etag, chunk=CHUNK)
        first = next(chunks, b"")
        chunks = chain([first], chunks)
        if first.startswith(PARQUET):
            yield from read_parquet(quote(part.key), chunks, part.size)
            return
        if first.startswith(GZIP):
            chunks = gunzip(quote(part.key), chunks, part.size)
            first = next(chunks, b"")
            chunks = chain([first], chunks)
        refuse_compressed(part.key, first)
        last = b"\n"
        for piece in chunks:
            last = piece[-1:] or last
            yield piece
        if last != b"\n":
            yield b"\n"


class LineNames:
    """Names lines of an input in messages: by their number, and the object if there are several."""

    def __init__(self, prefix: str = "", parts: Sequence[PartLines] = ()) -> None:
        self._prefix, self._parts = prefix, parts
        self._firsts = [part.first for part in parts]

    def __call__(self, number: int) -> str:
        """Return words such as "line 3", or "line 3 of 'b.jsonl'" for a line of an object under a prefix."""
        if not self._parts:
            return f"line {number + 1}"
        part = self._parts[bisect_right(self._firsts, number) - 1]
        return f"line {number - part.first + 1} of {quote(part.key.removeprefix(self._prefix))}"
