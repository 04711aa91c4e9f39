"""What a request would say about an image of the set: its record and its pixels as the values of conditions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.data import degradations, masks
from training.data.image_set import ImageSet, Record


@dataclass(frozen=True)
class Picture:
    """One image as it is trained on, with what belongs to it."""

    pixels: NDArray[np.uint8]  # [H, W, C]
    record: Record
    mirrored: bool = False  # pixels, map and mask are; boxes are not yet
    map: NDArray[np.uint8] | None = None  # [H, W]
    mask: NDArray[np.uint8] | None = None  # [H, W], 255 in the hole


@dataclass(frozen=True)
class Requests:
    """Makes requests of pictures.

    types: of the conditioner of each field, as in `conditioners.TYPES`. degradation, scale: see `degradations`.
    masks: a kind of `masks.KINDS`, or "given". objects: the most that a layout may have.
    """

    types: Mapping[str, str]
    degradation: str = "bicubic"
    scale: int = 4
    masks: str = "mixed"
    objects: int | None = None

    @property
    def need_pixels(self) -> bool:
        """Whether a request holds an image or a map, so that records alone do not make one."""
        return any(kind in ("semantic_map", "low_resolution", "masked_image") for kind in self.types.values())

    def __call__(self, picture: Picture, generator: Generator) -> dict[str, Any]:
        """A value for each field, None where the picture's record has none."""
        return {field: VALUES[kind](self, picture, generator) for field, kind in self.types.items()}


def label(requests: Requests, picture: Picture, generator: Generator) -> Any:
    """The number of its class."""
    return picture.record.get("label")


def text(requests: Requests, picture: Picture, generator: Generator) -> Any:
    """Its caption."""
    return picture.record.get("text")


def layout(requests: Requests, picture: Picture, generator: Generator) -> Any:
    """Its boxes, shuffled: the order of objects means nothing, and a transformer would learn one."""
    boxes = picture.record.get("boxes")
    if boxes is None:
        return None
    shuffled = [boxes[i] for i in generator.permutation(len(boxes))[: requests.objects]]
    return {"boxes": [{**one, "box": mirrored(one["box"])} for one in shuffled] if picture.mirrored else shuffled}


def mirrored(box: list[float]) -> list[float]:
    """A box [x0, y0, x1, y1] of the mirrored image."""
    x0, y0, x1, y1 = box
    return [1 - x1, y0, 1 - x0, y1]


def semantic_map(requests: Requests, picture: Picture, generator: Generator) -> Any:
    """The class of each pixel, [H, W] uint8."""
    return picture.map


def low_resolution(requests: Requests, picture: Picture, generator: Generator) -> Any:
    """The image, degraded: [H / scale, W / scale, C] uint8."""
    return degradations.degrade(picture.pixels, requests.scale, requests.degradation, generator)


def masked_image(requests: Requests, picture: Picture, generator: Generator) -> Any:
    """The image and a hole, its own or a drawn one."""
    if requests.masks == "given":
        return None if picture.mask is None else {"image": picture.pixels, "mask": picture.mask}
    height, width = picture.pixels.shape[:2]
    return {"image": picture.pixels, "mask": masks.draw(requests.masks, height, width, generator)}


VALUES: dict[str, Callable[[Requests, Picture, Generator], Any]] = {
    "class": label,
    "text": text,
    "frozen_text": text,
    "layout": layout,
    "layout_map": layout,
    "semantic_map": semantic_map,
    "low_resolution": low_resolution,
    "masked_image": masked_image,
}


def missing(images: ImageSet, kind: str, *, given_masks: bool = False) -> int:
    """How many training images have no value for a conditioner of `kind`."""
    rows = images.rows("train")
    match kind:
        case "semantic_map":
            return 0 if images.maps is not None else len(rows)
        case "masked_image":
            return 0 if images.masks is not None or not given_masks else len(rows)
        case "low_resolution":
            return 0
        case _:
            field = {"class": "label", "layout": "boxes", "layout_map": "boxes"}.get(kind, "text")
            return sum(images.records[row].get(field) is None for row in rows)
