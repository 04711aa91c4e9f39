"""Aspect buckets: whole images of nearly one area in a few shapes, so that each batch has one shape.

A set that keeps aspect ratios holds each image twice: cropped to a square, as every set does, for evaluations and
previews, and whole in the shape of its bucket, for training. In addition to the files of `image_set` it has

    buckets.npy     [N] uint16, the bucket of each image
    WxH.npy         [R, H, W, C] uint8, the images of a bucket in the order of the set
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.array_files import copy_rows

LONGEST = 3.0  # sides of a bucket differ at most by this factor
BUCKETS = "buckets.npy"

Size = tuple[int, int]  # width and height in pixels


def bucket_sizes(image_size: int, step: int) -> list[Size]:
    """Return the sizes of buckets: multiples of `step`, the largest whose area is at most that of a square image.

    The square comes first, then pairs of wide and tall ones. Raises ValueError for a step that does not divide
    `image_size`.
    """
    if image_size % step:
        raise ValueError(f"{step} is not allowed; permitted: divisors of image_size={image_size}")
    sizes = [(image_size, image_size)]
    for height in range(image_size - step, 0, -step):
        width = image_size**2 // height // step * step
        if width > LONGEST * height:
            break
        sizes += [(width, height), (height, width)]
    return sizes


def choose_bucket(size: Size, sizes: Sequence[Size]) -> int:
    """Return the number of the bucket whose aspect ratio is nearest, the first of equally near ones."""
    aspect = math.log(size[0] / size[1])
    distances = [abs(math.log(width / height) - aspect) for width, height in sizes]
    return distances.index(min(distances))


def crop_to(size: Size, bucket: Size) -> tuple[float, float, float, float]:
    """Return the largest centred box of an image that has the bucket's aspect ratio: left, top, right, bottom."""
    scale = min(size[0] / bucket[0], size[1] / bucket[1])
    width, height = bucket[0] * scale, bucket[1] * scale
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


@dataclass(frozen=True)
class Buckets:
    """The whole images of a set. bucket: [N], the bucket of each row. arrays: [R, H, W, C] uint8 of each bucket."""

    sizes: tuple[Size, ...]
    bucket: NDArray[np.int64]
    arrays: tuple[NDArray[np.uint8], ...]

    @property
    def positions(self) -> NDArray[np.int64]:
        """The place of each row among the images of its bucket, [N]."""
        places = np.empty_like(self.bucket)
        for number in range(len(self.sizes)):
            here = self.bucket == number
            places[here] = np.arange(here.sum())
        return places


def write_buckets(root: Path, whole: Buckets, digest: "hashlib._Hash") -> None:
    """Write the whole images, whose arrays may be memory maps, and add them to the digest."""
    for size, array in zip(whole.sizes, whole.arrays, strict=True):
        digest.update(name_of(size).encode())
        copy_rows(root / name_of(size), array, np.arange(len(array)), digest)
    numbers = whole.bucket.astype(np.uint16)
    digest.update(numbers.tobytes())
    np.save(root / BUCKETS, numbers)


def read_buckets(root: Path, sizes: Sequence[Size]) -> Buckets:
    """Read the whole images. Raises OSError or ValueError for files that are missing or contradict each other."""
    bucket = np.load(root / BUCKETS).astype(np.int64)
    arrays = tuple(np.load(root / name_of(size), mmap_mode="r") for size in sizes)
    counts = np.bincount(bucket, minlength=len(sizes)).tolist()
    if counts != [len(array) for array in arrays] or any(
        array.shape[2:0:-1] != tuple(size) for array, size in zip(arrays, sizes, strict=True)
    ):
        raise ValueError(f"{BUCKETS} and the images of the buckets contradict each other")
    return Buckets(tuple((width, height) for width, height in sizes), bucket, arrays)


def name_of(size: Size) -> str:
    """Return the name of the file of a bucket."""
    return f"{size[0]}x{size[1]}.npy"
