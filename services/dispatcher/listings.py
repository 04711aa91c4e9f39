"""The listings of a job: files of JSON Lines in S3, and the commonest of its errors."""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from services.storage.object_store import ObjectStore
from services.storage.streaming import StreamedObject

LINES_PER_FILE = 10_000
COUNTED_ERRORS = 1_000  # different ones
MAX_REASON = 500  # characters of an image's error in the reason of its job
CONTENT_TYPE = "application/jsonl"
LINE = re.compile(r"^line [0-9]+( of (['\"]).*?\2)?: ")  # as `LineNames` names it
LISTING = re.compile(r"/outputs-(?:r(?P<revision>[0-9]+)-)?[0-9]+\.jsonl$")


def listing_revision(key: str) -> int:
    """Return the revision of the job that wrote this listing of outputs, or 0 if it is none."""
    match = LISTING.search(key)
    return int(match["revision"] or 1) if match else 0


class ListingFiles:
    """Writes lines to files of LINES_PER_FILE lines, at least one file. They exist once the `with` block has ended.

    keys: of the files so far.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.keys: list[str] = []
        self._store, self._prefix = store, prefix
        self._lines = 0
        self._files = ExitStack()
        self._file = self._open()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        if self._lines == LINES_PER_FILE:
            self._files.close()
            self._file = self._open()
        self._file.write(encode_line(line))
        self._lines += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, traceback)

    def _open(self) -> StreamedObject:
        self._lines = 0
        self.keys.append(f"{self._prefix}{len(self.keys):05d}.jsonl")
        return self._files.enter_context(StreamedObject(self._store, self.keys[-1], content_type=CONTENT_TYPE))


def encode_line(line: Mapping[str, Any]) -> bytes:
    """Return a line of a listing."""
    return (json.dumps(line) + "\n").encode()


@dataclass
class _Count:
    error: str
    images: int = 0
    is_one: bool = True  # all errors are the same text


class ErrorCounts:
    """Counts errors. Those of input lines are alike if they differ only in the number of the line.

    It counts the first COUNTED_ERRORS different ones; a job may have a million.
    """

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def add(self, error: str) -> None:
        """Count the error of one image."""
        cause = LINE.sub("", error)
        count = self._counts.get(cause)
        if count is None:
            if len(self._counts) == COUNTED_ERRORS:
                return
            count = self._counts[cause] = _Count(error)
        count.images += 1
        count.is_one = count.is_one and count.error == error

    def reason(self, total: int) -> str | None:
        """Return the commonest error and how many of the job's images have it, or None if there is no error."""
        if not self._counts:
            return None
        cause, count = max(self._counts.items(), key=lambda counted: counted[1].images)  # the first one of equals
        error = count.error if count.is_one else cause
        if len(error) > MAX_REASON:
            error = f"{error[: MAX_REASON - 3]}..."
        return f"{error} ({count.images} of {total} images)"
