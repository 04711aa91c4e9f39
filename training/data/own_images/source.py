"""A source of the user's own images: one stream of named files, in a fixed order.

In every source, the name of a file is its path below the folder or in the archive, with slashes and no leading "./".
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.own_images.names import ARCHIVE_ENDINGS, PART, SPLIT_FOLDERS, split_of_file

HEAD = 32  # bytes
SYNSET = re.compile(r"n\d{8}")  # a class of ImageNet

Wanted = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or object in a source's listing. version: changes with its content."""

    name: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a source. body: its bytes, or its path on disk; None for a file that is not wanted.

    record: what a source whose images are rows of a table says of this image, in the fields of `records`.
    """

    name: str
    body: bytes | Path | None
    origin: str  # its location, for messages
    link: bool = False  # a link inside a tar, which cannot be followed in a stream
    record: Mapping[str, Any] | None = None

    def read(self) -> bytes:
        """Return the bytes of a wanted file. Raises OSError."""
        return self.body.read_bytes() if isinstance(self.body, Path) else self.body or b""

    @property
    def head(self) -> bytes:
        """The first bytes of a wanted file, none if it cannot be read."""
        if not isinstance(self.body, Path):
            return (self.body or b"")[:HEAD]
        try:
            with self.body.open("rb") as file:
                return file.read(HEAD)
        except OSError:
            return b""


class Source(ABC):
    """A sequence of files in reading order. position: the number of bytes of `total` that have been read."""

    complete_metadata = False  # whether every table comes before the first image, and `names` is the whole listing

    def __init__(self, url: str, entries: Sequence[Entry]) -> None:
        self.url, self.entries = url, entries
        self.total, self.position = sum(entry.size for entry in entries), 0

    @property
    def names(self) -> Iterator[str]:
        """The names of the members, as far as the listing tells them."""
        return iter(())

    @abstractmethod
    def members(self, wanted: Wanted) -> Iterator[Member]:
        """Yield each file, without the body of those whose name is not wanted. Raises DataError."""


def splits_of_files(paths: Sequence[str]) -> list[str | None]:
    """Return the split that the name or the folder of each archive means; None for all if only one split occurs."""
    common = os.path.commonpath([os.path.dirname(path) or "." for path in paths]) if len(paths) > 1 else ""
    found: list[str | None] = []
    for path in paths:
        folders = os.path.relpath(os.path.dirname(path) or ".", common or ".").lower().split(os.sep)
        of_folder = next((SPLIT_FOLDERS[folder] for folder in folders if folder in SPLIT_FOLDERS), None)
        found.append(split_of_file(path) or of_folder)
    return found if {"train", "held_out"} <= set(found) else [None] * len(paths)


def folders_of_archives(paths: Sequence[str], pictures: Callable[[], Sequence[Sequence[str]]]) -> list[str]:
    """Return what the names in each archive begin with: its split, or its name if each archive is a class.

    Each is a class if their names differ in more than numbers, and no picture is in a folder of another name. Those
    whose names differ in a number alone are parts of one class.
    pictures: returns names of pictures in each archive.
    """
    if any(splits := splits_of_files(paths)):
        return [f"{split}/" if split else "" for split in splits]
    stems = [stem_of_archive(path) for path in paths]
    if not are_classes(stems):
        return [""] * len(paths)
    inside = pictures()
    holding = [stem for stem, names in zip(stems, inside, strict=True) if names]
    plain = [PART.sub("", stem) for stem in stems]
    classes = stems if len(set(plain)) in (1, len(plain)) else plain
    outer = [{name.partition("/")[0] for name in names if "/" in name} for names in inside]
    if not are_classes(holding) or any(found - {name} for name, found in zip(classes, outer, strict=True)):
        return [""] * len(paths)
    return ["" if found else f"{name}/" for name, found in zip(classes, outer, strict=True)]


def stem_of_archive(path: str) -> str:
    """Return the name of an archive without folders and ending."""
    name = os.path.basename(path)
    ending = max((one for one in ARCHIVE_ENDINGS if name.lower().endswith(one)), key=len, default="")
    return name[: len(name) - len(ending)]


def are_classes(stems: Sequence[str]) -> bool:
    """Return whether archives of these names may be classes, and not parts of one set."""
    return len({PART.sub("", stem) for stem in stems}) > 1 or (
        len(set(stems)) > 1 and all(map(SYNSET.fullmatch, stems))
    )
