"""Reads IDX files, the format of MNIST: images of one size in one file, their labels in another."""

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data.image_set import DataError
from training.data.own_images.source import Entry, Member, Source, Wanted

IMAGES_FILE = re.compile(r"(.*?)[-_.]?images[-_.]idx[34]-ubyte(\.gz)?", re.IGNORECASE)
UNSIGNED_BYTES = 8  # the code of the type in the header
TEST = "t10k"  # as MNIST calls its test part


class Idx(Source):
    """The images of IDX files with the labels of the files beside them. Given two parts, t10k or test is held out."""

    def __init__(self, url: str, paths: Sequence[Path]) -> None:
        self.pairs = [(path, find_labels(path)) for path in sorted(paths)]
        files = [file for pair in self.pairs for file in pair if file is not None]
        statuses = [(file, file.stat()) for file in files]
        super().__init__(url, [Entry(str(file), s.st_size, str(s.st_mtime_ns)) for file, s in statuses])
        self.total = len(self.pairs)

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source. An image is in PGM or PPM format."""
        parts = [name_part(path) for path, _ in self.pairs]
        for (path, labels_path), part in zip(self.pairs, parts, strict=True):
            held_out = TEST in part.lower() or "test" in part.lower()
            split = {"split": "test" if held_out else "train"} if len(parts) > 1 else {}
            labels = b"" if labels_path is None else b"".join(read_items(labels_path, 1))
            for row, (header, pixels) in enumerate(read_images(path)):
                if labels and row >= len(labels):
                    raise DataError(f"data.root: {labels_path} has {len(labels):,} labels, and {path.name} more images")
                record: dict[str, Any] = {**split, **({"label": labels[row]} if labels else {})}
                name = f"{part}/{row:06}.{'pgm' if header[:2] == b'P5' else 'ppm'}"
                yield Member(name, header + pixels, f"{path}: image {row}", record=record)
            self.position += 1


def is_idx(name: str) -> bool:
    """Return whether a file of this name holds images in the IDX format."""
    return IMAGES_FILE.fullmatch(name.rpartition("/")[2]) is not None


def name_part(path: Path) -> str:
    """Return the part of a set that a file of images is, such as train."""
    match = IMAGES_FILE.fullmatch(path.name)
    return (match and match[1]) or "images"


def find_labels(path: Path) -> Path | None:
    """Return the file with the labels of a file of images, packed or not, or None."""
    stem = re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE)
    labels = re.sub("idx[34]", "idx1", re.sub("images", "labels", stem))
    return next((file for end in ("", ".gz") if (file := path.with_name(labels + end)).is_file()), None)


def read_images(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the PGM or PPM header and the pixels of each image. Raises DataError."""
    items = read_items(path, 3)
    sides = next(items)
    height, width, *channels = (int.from_bytes(sides[i : i + 4], "big") for i in range(0, len(sides), 4))
    kind = {(): "P5", (1,): "P5", (3,): "P6"}.get(tuple(channels))
    if kind is None:
        raise DataError(f"data.root: {path} holds images of {channels[0]} channels; permitted: 1 or 3")
    header = f"{kind}\n{width} {height}\n255\n".encode()
    for pixels in items:
        yield header, pixels


def read_items(path: Path, least: int) -> Iterator[bytes]:
    """Yield the sizes of an item as big-endian 32-bit numbers if it has any, then each item. Raises DataError."""
    damaged = f"data.root: {path} is not a complete IDX file of bytes; it is damaged, copy it again"
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTES]) or not least <= magic[3] <= 4:
                raise DataError(damaged)
            count = int.from_bytes(file.read(4), "big")
            sides = file.read(4 * (magic[3] - 1))
            size = math.prod(int.from_bytes(sides[i : i + 4], "big") for i in range(0, len(sides), 4))
            if sides:
                yield sides
            for _ in range(count):
                item = file.read(size)
                if len(item) < size:
                    raise DataError(damaged)
                yield item
    except (OSError, EOFError, zlib.error):
        raise DataError(damaged) from None
