"""Reads batches from the rows of a set: of images, or of latents that were encoded before."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from training.data.conditions import AnnotatedImage, Requests
from training.data.image_set import ImageSet, Record
from training.data.latents import Latents
from training.model.pixels import to_unit


class ImageRows:
    """Batches {"image": [R, C, S, S] in [-1, 1], "requests": R requests}.

    flip: mirror half of the images at random. crop: side of random crops in pixels, or None for whole images.
    requests: None for batches without requests.
    """

    def __init__(
        self, images: ImageSet, *, flip: bool = False, crop: int | None = None, requests: Requests | None = None
    ) -> None:
        self.images, self.flip, self.crop, self.requests = images, flip, crop, requests

    def __call__(self, rows: NDArray[np.int64], generators: Sequence[Generator]) -> dict[str, Any]:
        """Return a batch of training images; see `Batches`."""
        pairs = list(zip(rows, generators, strict=True))
        if self.requests is None and not self.flip and self.crop is None:
            return {"image": self.images.pixels(rows)}
        examples = [self.draw_example(int(row), generator) for row, generator in pairs]
        batch: dict[str, Any] = {"image": to_unit(torch.from_numpy(np.stack([e.pixels for e in examples])))}
        if self.requests is not None:
            batch["requests"] = [self.requests(e, g) for e, g in zip(examples, generators, strict=True)]
        return batch

    def draw_example(self, row: int, generator: Generator) -> AnnotatedImage:
        """Return one image, mirrored and cropped at random by its generator."""
        flip = self.flip and bool(generator.random() < 0.5)
        side = self.images.image_size
        size = side if self.crop is None else self.crop
        top, left = (int(generator.integers(side - size + 1)) for _ in range(2)) if size < side else (0, 0)
        record = crop_record(self.images.records[row], left / side, top / side, size / side)
        return read_image(self.images, row, record, flip, (slice(top, top + size), slice(left, left + size)))


class LatentRows:
    """Batches {"moments": [R, 2, C, h, w], "requests": R requests}, from latents that were encoded once.

    Rows of whole images are of one bucket, as `BucketBatches` has them.
    """

    def __init__(self, latents: Latents, images: ImageSet, *, requests: Requests) -> None:
        self.latents, self.images, self.requests = latents, images, requests
        self.flips = latents.description.flips == 2
        self.whole = images.whole if latents.description.buckets else None
        self.positions = None if self.whole is None else self.whole.positions

    def __call__(self, rows: NDArray[np.int64], generators: Sequence[Generator]) -> dict[str, Any]:
        """Return a batch of training images' latents; see `Batches`."""
        flips = np.array([self.flips and generator.random() < 0.5 for generator in generators], dtype=np.int64)
        moments = self.read_moments(rows, flips)
        requests = [
            self.requests(read_image(self.images, int(row), self.images.records[row], bool(flip)), generator)
            for row, flip, generator in zip(rows, flips, generators, strict=True)
        ]
        return {"moments": moments, "requests": requests}

    def read_moments(self, rows: NDArray[np.int64], flips: NDArray[np.int64]) -> Tensor:
        """Return the mean and the standard deviation of rows, [R, 2, C, h, w]."""
        part, places = 0, rows
        if self.whole is not None and self.positions is not None:
            part, places = int(self.whole.bucket[rows[0]]), self.positions[rows]
        return self.latents.parts[part][torch.from_numpy(places), torch.from_numpy(flips)]


def read_image(
    images: ImageSet,
    row: int,
    record: Any,
    flip: bool = False,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> AnnotatedImage:
    """Return a window of one image with its map and mask, mirrored if `flip`. The arrays are views."""
    turn = slice(None, None, -1) if flip else slice(None)

    def part(array: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        return None if array is None else array[row][window][:, turn]

    pixels = part(images.images)
    assert pixels is not None
    return AnnotatedImage(pixels, record, flip, part(images.maps), part(images.masks))


def crop_centres(images: ImageSet, size: int) -> ImageSet:
    """Return the set with its images cropped to the central squares of `size` pixels. The arrays are views."""
    start = (images.image_size - size) // 2
    left, share = start / images.image_size, size / images.image_size

    def middle(array: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        return None if array is None else array[:, start : start + size, start : start + size]

    records = [crop_record(record, left, left, share) for record in images.records]
    pixels = middle(images.images)
    assert pixels is not None
    return replace(images, images=pixels, records=records, maps=middle(images.maps), masks=middle(images.masks))


def crop_record(record: Record, left: float, top: float, share: float) -> Record:
    """Return the record of a crop: its boxes are those of `crop_boxes`."""
    boxes = record.get("boxes")
    return record if boxes is None or share == 1 else {**record, "boxes": crop_boxes(boxes, left, top, share)}


def crop_boxes(boxes: Sequence[Any], left: float, top: float, share: float) -> list[dict[str, Any]]:
    """Return boxes as shares of a crop that starts at (left, top) and spans `share` of each side.

    A box of which less than a quarter of the area is in the crop is left out.
    """
    inside_boxes = []
    for one in boxes:
        x0, y0, x1, y1 = one["box"]
        inside = [
            min(max(value, 0.0), 1.0)
            for value in ((x0 - left) / share, (y0 - top) / share, (x1 - left) / share, (y1 - top) / share)
        ]
        seen = (inside[2] - inside[0]) * (inside[3] - inside[1]) * share**2
        if seen >= 0.25 * (x1 - x0) * (y1 - y0):
            inside_boxes.append({**one, "box": inside})
    return inside_boxes


def spread(rows: Sequence[int], count: int) -> list[int]:
    """Return `count` of the rows, evenly spread, or all of them if there are fewer."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
