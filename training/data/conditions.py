"""Makes requests from images of a set: the values of conditions come from an image's record and pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.data import degradations, masks
from training.data.image_set import Description, ImageSet, Record
from training.model.conditioners.text_tokenizer import MAX_CHARACTERS
from training.model.release import Release


@dataclass(frozen=True)
class AnnotatedImage:
    """One training image with its annotations."""

    pixels: NDArray[np.uint8]  # [H, W, C]
    record: Record
    mirrored: bool = False  # pixels, map and mask are mirrored already; boxes are not
    map: NDArray[np.uint8] | None = None  # [H, W]
    mask: NDArray[np.uint8] | None = None  # [H, W], 255 in the hole


@dataclass(frozen=True)
class Requests:
    """Makes the request that would describe an image.

    types: the type of each field's conditioner, as in `conditioners.TYPES`. degradation, scale: see `degradations`.
    masks: a kind of `masks.KINDS`, or "given". objects: the maximum of objects in a layout.
    """

    types: Mapping[str, str]
    degradation: str = "bicubic"
    scale: int = 4
    masks: str = "mixed"
    objects: int | None = None

    @property
    def needs_pixels(self) -> bool:
        """Whether a request holds an image or a map, so that records alone do not suffice."""
        return any(kind in ("semantic_map", "low_resolution", "masked_image") for kind in self.types.values())

    def __call__(self, image: AnnotatedImage, generator: Generator) -> dict[str, Any]:
        """Return a value for each field, None if the image's record has none."""
        return {field: VALUES[kind](self, image, generator) for field, kind in self.types.items()}


def label(requests: Requests, image: AnnotatedImage, generator: Generator) -> Any:
    """Return the number of the class."""
    return image.record.get("label")


def text(requests: Requests, image: AnnotatedImage, generator: Generator) -> Any:
    """Return the caption, cut to the length that requests may have."""
    caption = image.record.get("text")
    return caption[:MAX_CHARACTERS] if isinstance(caption, str) else None


def layout(requests: Requests, image: AnnotatedImage, generator: Generator) -> Any:
    """Return the boxes, shuffled, because a transformer would learn their order, which has no meaning."""
    boxes = image.record.get("boxes")
    if boxes is None:
        return None
    shuffled = [boxes[i] for i in generator.permutation(len(boxes))[: requests.objects]]
    return {"boxes": [{**one, "box": mirror_box(one["box"])} for one in shuffled] if image.mirrored else shuffled}


def mirror_box(box: list[float]) -> list[float]:
    """Return a box [x0, y0, x1, y1] in the mirrored image."""
    x0, y0, x1, y1 = box
    return [1 - x1, y0, 1 - x0, y1]


def semantic_map(requests: Requests, image: AnnotatedImage, generator: Generator) -> Any:
    """Return the class of each pixel, [H, W] uint8."""
    return image.map


def low_resolution(requests: Requests, image: AnnotatedImage, generator: Generator) -> Any:
    """Return the degraded image, [H / scale, W / scale, C] uint8."""
    return degradations.degrade(image.pixels, requests.scale, requests.degradation, generator)


def masked_image(requests: Requests, image: AnnotatedImage, generator: Generator) -> Any:
    """Return the image and the mask of a hole: its own, or a random one."""
    if requests.masks == "given":
        return None if image.mask is None else {"image": image.pixels, "mask": image.mask}
    height, width = image.pixels.shape[:2]
    return {"image": image.pixels, "mask": masks.draw(requests.masks, height, width, generator)}


VALUES: dict[str, Callable[[Requests, AnnotatedImage, Generator], Any]] = {
    "class": label,
    "text": text,
    "frozen_text": text,
    "layout": layout,
    "layout_map": layout,
    "semantic_map": semantic_map,
    "low_resolution": low_resolution,
    "masked_image": masked_image,
}


def count_missing(images: ImageSet, kind: str, *, given_masks: bool = False) -> int:
    """Return the number of training images without a value for a conditioner of `kind`."""
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


def types_of(description: Release) -> dict[str, str]:
    """The type of each conditioner, by its request field."""
    return {name: config["type"] for name, config in description.architecture["conditioners"].items()}


def other_classes(description: Release, field: str, whose: str, about: Description) -> str | None:
    """Return how the classes of an image set differ from those of a condition of a release; None if they do not.

    Their order counts, because a label is a number. Names are compared if both sides have names and not just numbers.
    whose: what the message calls the release.
    """
    condition = description.architecture["conditioners"][field]
    by_type = {
        "class": about.classes, "layout": about.box_classes, "layout_map": about.box_classes,
        "semantic_map": about.map_classes,
    }  # fmt: skip
    if condition["type"] not in by_type:
        return None
    found, own, count = by_type[condition["type"]], description.class_names(field), condition.get("classes")
    cure = f"; prepare the images with data.classes, the classes of {whose} in their order" if own else ""
    cure = cure if set(found) <= set(own) else ""
    if len(found) != count:
        return f"the images have {len(found)} classes; {whose} has {count}{cure}"
    if not own or found == own or found == tuple(map(str, range(len(found)))):
        return None
    number = next(i for i, (one, other) in enumerate(zip(found, own, strict=True)) if one != other)
    return f"class {number} of the images is {found[number]!r}; of {whose}, {own[number]!r}{cure}"


def request_maker(description: Release) -> Requests:
    """Return the maker of requests from images, with the settings of the release's training."""
    conditioners = description.architecture["conditioners"]
    data = description.lineage.get("experiment", {}).get("data", {})
    degradation = data.get("degradation", {"kind": "bicubic", "scale": 4})
    return Requests(
        types_of(description),
        degradation["kind"],
        degradation["scale"],
        data.get("masks", "mixed"),
        min((config["objects"] for config in conditioners.values() if "objects" in config), default=None),
    )
