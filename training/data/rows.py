"""From the rows of a set to a batch: of images, or of latents that were encoded before."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from training.data.conditions import Picture, Requests
from training.data.image_set import ImageSet, Record
from training.data.latents import Latents
from training.model.pixels import to_unit


class ImageRows:
    """Batches {"image": [R, C, S, S] in [-1, 1], "requests": R requests}.

    flip: mirror half of the images. crop: the side of random crops; None takes whole images.
    requests: None leaves them out.
    """

    def __init__(
        self, images: ImageSet, *, flip: bool = False, crop: int | None = None, requests: Requests | None = None
    ) -> None:
        self.images, self.flip, self.crop, self.requests = images, flip, crop, requests

    def __call__(self, rows: NDArray[np.int64], generators: Sequence[Generator]) -> dict[str, Any]:
        """A batch of training images; see `Batches`."""
        pairs = list(zip(rows, generators, strict=True))
        if self.requests is None and not self.flip and self.crop is None:
            return {"image": self.images.pixels(rows)}
        pictures = [self.picture(int(row), generator) for row, generator in pairs]
        batch: dict[str, Any] = {"image": to_unit(torch.from_numpy(np.stack([p.pixels for p in pictures])))}
        if self.requests is not None:
            batch["requests"] = [self.requests(p, g) for p, g in zip(pictures, generators, strict=True)]
        return batch

    def picture(self, row: int, generator: Generator) -> Picture:
        """One image, mirrored and cropped as its generator has it."""
        flip = self.flip and bool(generator.random() < 0.5)
        side = self.images.image_size
        size = side if self.crop is None else self.crop
        top, left = (int(generator.integers(side - size + 1)) for _ in range(2)) if size < side else (0, 0)
        record = of_window(self.images.records[row], left / side, top / side, size / side)
        return picture(self.images, row, record, flip, (slice(top, top + size), slice(left, left + size)))


class LatentRows:
    """Batches {"moments": [R, 2, C, h, w], "requests": R requests}, from latents that were encoded once."""

    def __init__(self, latents: Latents, images: ImageSet, *, requests: Requests) -> None:
        self.moments, self.images, self.requests = latents.moments, images, requests
        self.flips = latents.moments.shape[1] == 2

    def __call__(self, rows: NDArray[np.int64], generators: Sequence[Generator]) -> dict[str, Any]:
        """A batch of training images' latents; see `Batches`."""
        flips = np.array([self.flips and generator.random() < 0.5 for generator in generators], dtype=np.int64)
        moments: Tensor = self.moments[torch.from_numpy(rows), torch.from_numpy(flips)]
        requests = [
            self.requests(picture(self.images, int(row), self.images.records[row], bool(flip)), generator)
            for row, flip, generator in zip(rows, flips, generators, strict=True)
        ]
        return {"moments": moments, "requests": requests}


def picture(
    images: ImageSet,
    row: int,
    record: Any,
    flip: bool = False,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> Picture:
    """A window of one image with its map and mask, mirrored if `flip`. Nothing is copied."""
    turn = slice(None, None, -1) if flip else slice(None)

    def part(array: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        return None if array is None else array[row][window][:, turn]

    pixels = part(images.images)
    assert pixels is not None
    return Picture(pixels, record, flip, part(images.maps), part(images.masks))


def centred(images: ImageSet, size: int) -> ImageSet:
    """The set's middle squares of `size`, at most the images' side: what crops are like. Nothing is copied."""
    start = (images.image_size - size) // 2
    left, share = start / images.image_size, size / images.image_size

    def middle(array: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        return None if array is None else array[:, start : start + size, start : start + size]

    records = [of_window(record, left, left, share) for record in images.records]
    pixels = middle(images.images)
    assert pixels is not None
    return replace(images, images=pixels, records=records, maps=middle(images.maps), masks=middle(images.masks))


def of_window(record: Record, left: float, top: float, share: float) -> Record:
    """A record with its boxes as `cropped` has them."""
    boxes = record.get("boxes")
    return record if boxes is None or share == 1 else {**record, "boxes": cropped(boxes, left, top, share)}


def cropped(boxes: Sequence[Any], left: float, top: float, share: float) -> list[dict[str, Any]]:
    """Boxes as shares of a crop that begins at (left, top) and takes `share` of each side; those outside are left out.

    An object of which less than a quarter is in sight is outside.
    """
    kept = []
    for one in boxes:
        x0, y0, x1, y1 = one["box"]
        inside = [
            min(max(value, 0.0), 1.0)
            for value in ((x0 - left) / share, (y0 - top) / share, (x1 - left) / share, (y1 - top) / share)
        ]
        seen = (inside[2] - inside[0]) * (inside[3] - inside[1]) * share**2
        if seen >= 0.25 * (x1 - x0) * (y1 - y0):
            kept.append({**one, "box": inside})
    return kept
