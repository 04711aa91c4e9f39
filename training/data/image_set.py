"""An image set on disk: decoded images of one size, read through a memory map.

    images.npy      [N, S, S, C] uint8, the training images first, the held-out ones after them
    records.jsonl   the annotations of each image, one JSON object per line
    maps.npy        [N, S, S] uint8, the class of each pixel, if the set has semantic maps
    masks.npy       [N, S, S] uint8, 255 in the hole, if the set has masks
    images.json     the description; written last, so a folder that has one is complete

A set that keeps aspect ratios has the files of `aspect_buckets` too.

A record has `name`, and any of `text` (a caption), `label` (an index into the description's `classes`) and
`boxes`: [{"class": an index into `box_classes`, "box": [x0, y0, x1, y1]}, ...], as shares of the image's sides.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor

from training.data import pointer
from training.data.array_files import copy_rows
from training.data.aspect_buckets import Buckets, Size, read_buckets, write_buckets
from training.errors import DarkroomError, summarise
from training.model.pixels import to_unit

IMAGES, MAPS, MASKS = "images.npy", "maps.npy", "masks.npy"
RECORDS, DESCRIPTION = "records.jsonl", "images.json"
FIELDS = ("text", "label", "boxes")  # of a record, in addition to its name

Record = Mapping[str, Any]


class DataError(DarkroomError):
    """An image set cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Description:
    """The content of `images.json`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # applies when reading

    name: str
    count: int
    train_count: int  # the first rows; the rest is held out
    fingerprint: str  # sha256 of images, maps, masks and records, in order
    classes: tuple[str, ...] = ()  # names of the labels
    box_classes: tuple[str, ...] = ()
    map_classes: tuple[str, ...] = ()
    buckets: tuple[Size, ...] = ()  # width and height of the whole images, if the set has them


@dataclass(frozen=True)
class ImageSet:
    """Images [N, S, S, C] uint8 and their annotations; see the module. whole: the images that are not cropped."""

    images: NDArray[np.uint8]
    records: Sequence[Record]
    description: Description
    maps: NDArray[np.uint8] | None = None
    masks: NDArray[np.uint8] | None = None
    whole: Buckets | None = None

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.images.shape[1])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return int(self.images.shape[3])

    @cached_property
    def used_classes(self) -> Sequence[int]:
        """The numbers of the classes that images have: a set may have pictures of some of a release's classes only."""
        used = {record["label"] for record in self.records if "label" in record}
        return sorted(used) or range(len(self.description.classes))

    def rows(self, split: str) -> range:
        """Return the rows of the "train" or "held_out" images."""
        cut = self.description.train_count
        return range(cut) if split == "train" else range(cut, len(self.images))

    def pixels(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the images of `rows`: [R, C, S, S] in [-1, 1]."""
        return to_unit(torch.from_numpy(self.images[np.asarray(rows)]))

    def labels(self, rows: Sequence[int]) -> Tensor:
        """Return the labels of `rows`: [R] int64. Raises DataError if an image has none."""
        try:
            return torch.tensor([self.records[row]["label"] for row in rows], dtype=torch.int64)
        except KeyError:
            raise DataError("data: not every image has a label") from None


def write(
    root: Path,
    *,
    name: str,
    images: NDArray[np.uint8],
    records: Sequence[Record],
    train_count: int,
    maps: NDArray[np.uint8] | None = None,
    masks: NDArray[np.uint8] | None = None,
    order: NDArray[np.int64] | None = None,
    whole: Buckets | None = None,
    **classes: Sequence[str],
) -> ImageSet:
    """Write a set to `root` and return it. Arrays may be memory maps, which are copied in parts.

    order: the rows of images, maps, masks and records in the order of the set; None keeps all in their order.
    whole: the whole images, in the order of the set. classes: the values of `classes`, `box_classes` and `map_classes`.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / DESCRIPTION).unlink(missing_ok=True)
    order = np.arange(len(images)) if order is None else order
    digest = hashlib.sha256()
    for file, array in ((IMAGES, images), (MAPS, maps), (MASKS, masks)):
        (root / file).unlink(missing_ok=True)
        if array is not None:
            digest.update(file.encode())
            copy_rows(root / file, array, order, digest)
    with (root / RECORDS).open("w", encoding="utf-8") as lines:
        for row in order:
            line = json.dumps(dict(records[row]), ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"
            digest.update(line.encode())
            lines.write(line)
    names = {field: tuple(values) for field, values in classes.items()}
    digest.update(json.dumps([train_count, names], sort_keys=True).encode())
    if whole is not None:
        write_buckets(root, whole, digest)
    sizes = () if whole is None else whole.sizes
    description = Description(name, len(order), train_count, digest.hexdigest(), **names, buckets=sizes)
    fields = {field: value for field, value in asdict(description).items() if field != "buckets" or value}
    document = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    (root / DESCRIPTION).write_text(document, encoding="utf-8")
    return read(root)


def read(root: Path) -> ImageSet:
    """Read the set in a folder, or in the one that it points to. Raises DataError if it is missing or damaged."""
    root, given = pointer.resolve(root), root
    if not (root / DESCRIPTION).is_file():
        if root != given:
            raise DataError(f"data.root: {given} points to the image set in {root}, which does not exist; is its "
                            "volume mounted at the same path here?")  # fmt: skip
        raise DataError(f"data.root: {root} holds no image set ({DESCRIPTION} is missing); prepare the data first")
    try:
        description = TypeAdapter(Description).validate_json((root / DESCRIPTION).read_bytes(), strict=True)
        arrays = {
            file: np.load(root / file, mmap_mode="r") for file in (IMAGES, MAPS, MASKS) if (root / file).is_file()
        }
        records = list(read_records(root / RECORDS))
        images = arrays[IMAGES]
        whole = read_buckets(root, description.buckets) if description.buckets else None
    except (OSError, EOFError, ValueError, KeyError) as error:
        reason = summarise(error, 1000)
        raise DataError(f"data.root: {root} holds a damaged image set ({reason}); prepare the data again") from None
    for file, array in arrays.items():
        shape, needed = array.shape, "[N, S, S, C]" if file == IMAGES else "[N, S, S], with the S of the images,"
        dimensions = 4 if file == IMAGES else 3
        if array.dtype != np.uint8 or len(shape) != dimensions or shape[1:3] != (images.shape[1],) * 2:
            raise DataError(f"data.root: {root / file} is {array.dtype} {shape}; {needed} uint8 is required")
    counts = {len(array) for array in arrays.values()} | {len(records), description.count}
    counts |= {len(whole.bucket)} if whole is not None else set()
    if len(counts) > 1 or not 0 < description.train_count <= len(images):
        raise DataError(
            f"data.root: {root} holds {len(images)} images, {len(records)} records and a train_count of "
            f"{description.train_count}, which contradict each other; prepare the data again"
        )
    return ImageSet(images, records, description, arrays.get(MAPS), arrays.get(MASKS), whole)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the objects of a file of JSON lines. Raises ValueError."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"{path.name}: {line[:40].strip()} is not a record")
            yield record
