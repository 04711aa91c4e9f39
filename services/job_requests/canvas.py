"""The images that a release makes, and the image files that a request gives to begin with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.job_requests.image_files import decode_image, read_oriented_size
from services.job_requests.image_rules import ImageRule
from services.storage.uri import SCHEME
from training.model.release import Release

CANVAS = "canvas"  # the field of a release's rules that holds its Canvas

Size = tuple[int, int]  # width and height in pixels


MAX_SIDE = 2048  # pixels
MAX_GROWTH = 64  # an image's area, in areas of an image of the release's own size


@dataclass(frozen=True)
class Canvas:
    """What a release's images are.

    channels: 1 or 3. width, height: of its own size, the one it was trained on. unit: the sides of other sizes are its
    multiples, because the autoencoder and each level of the U-Net divide them. factor: of its latents.
    """

    channels: int
    width: int
    height: int
    unit: int = 1
    factor: int = 1

    @classmethod
    def of(cls, release: Release) -> "Canvas":
        """Return the canvas of a diffusion release."""
        channels, height, width = release.image_shape
        factor = height // release.latent_shape[1]
        unit = factor * 2 ** (len(release.architecture["unet"]["multipliers"]) - 1)
        return cls(channels, width, height, unit, factor)

    @property
    def size(self) -> Size:
        """The size of images that a request does not give a size."""
        return self.width, self.height

    @property
    def area(self) -> int:
        """Pixels of an image of the release's own size."""
        return self.width * self.height

    @property
    def most_pixels(self) -> int:
        """Pixels that an image may have."""
        return max(self.area, min(MAX_SIDE**2, MAX_GROWTH * self.area))

    @property
    def image_rule(self) -> ImageRule:
        """What an image to begin with must be."""
        return ImageRule("colour", self.channels)

    def fits(self, size: Size) -> bool:
        """Return whether the release can make images of this size."""
        width, height = size
        longest = max(self.unit, MAX_SIDE // self.unit * self.unit)
        allowed = all(self.unit <= side <= longest and side % self.unit == 0 for side in size)
        return tuple(size) == self.size or (allowed and width * height <= self.most_pixels)

    def nearest(self, size: Size) -> Size:
        """Return a size that fits, near this one, and of about its proportions."""
        width, height = (min(max(side, self.unit), MAX_SIDE) for side in size)
        share = min(1.0, (self.most_pixels / (width * height)) ** 0.5)
        near = tuple(max(self.unit, round(side * share / self.unit) * self.unit) for side in (width, height))
        while not self.fits(near):  # rounded up too far
            longest = max(near)
            near = tuple(side - self.unit if side == longest and side > self.unit else side for side in near)
        return near[0], near[1]

    def rule_for(self, rule: ImageRule, size: Size) -> ImageRule:
        """Return what an image in a condition must be for outputs of this size, given that for the release's own."""
        if rule.size is None:
            return rule
        height, width = rule.size
        return replace(rule, size=(height * size[1] // self.height, width * size[0] // self.width))


MASK_RULE = ImageRule("mask", 1)


@dataclass(frozen=True, eq=False)
class Beginning:
    """What sampling begins with, of the size of the output.

    image: uint8 [H, W] or [H, W, C]. hole: bool [H, W], what is to be painted; None is everything.
    """

    image: NDArray[np.uint8]
    hole: NDArray[np.bool_] | None


def check_beginning(fields: Mapping[str, Any], size: Size) -> None:
    """Check the sizes of a request's image and mask as far as they are in the request and not in objects.

    size: of the output. Raises ValueError naming the field. The files have been read before.
    """
    image, mask = (
        None if (value := fields.get(name)) is None or value.startswith(SCHEME) else _named_size(name, value)
        for name in ("image", "mask")
    )
    if image is not None:
        check_proportions(image, size)
    if image is not None and mask is not None:
        check_mask_size(mask, image)


def _named_size(name: str, image: str) -> Size:
    try:
        return _size_of(image)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


@lru_cache(maxsize=2)  # a job gives one image for all of its items
def _size_of(image: str) -> Size:
    return read_oriented_size(image)


def read_beginning(fields: Mapping[str, Any], canvas: Canvas, size: Size) -> Beginning:
    """Decode a request's image and mask, and resize them to the size of the output.

    fields: with files as base64 or bytes. A mask is shrunk so that whatever lies in its hole stays in it. Raises
    ValueError naming the field.
    """
    image = _named("image", fields["image"], canvas.image_rule)
    given = (image.shape[1], image.shape[0])
    check_proportions(given, size)
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) if given != size else image
    if "mask" not in fields:
        return Beginning(resized, None)
    mask = _named("mask", fields["mask"], MASK_RULE)
    check_mask_size((mask.shape[1], mask.shape[0]), given)
    hole = Image.fromarray(np.where(mask >= 128, 255, 0).astype(np.uint8))
    return Beginning(resized, np.asarray(hole.resize(size, Image.Resampling.BOX)) > 0)


def _named(name: str, file: str | bytes, rule: ImageRule) -> NDArray[np.uint8]:
    try:
        return decode_image(file, rule)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def check_proportions(given: Size, size: Size) -> None:
    """Raise ValueError unless an image has the proportions of the output, up to a pixel."""
    (width, height), (W, H) = given, size
    if abs(width * H - height * W) >= max(W, H):
        raise ValueError(
            f"image: {width} pixels wide and {height} high is not allowed; "
            f"permitted: the proportions of the output, {W} wide and {H} high"
        )


def check_mask_size(mask: Size, image: Size) -> None:
    """Raise ValueError unless a mask has the size of its image."""
    if mask != image:
        raise ValueError(
            f"mask: {mask[0]} pixels wide and {mask[1]} high is not allowed; "
            f"permitted: {image[0]} wide and {image[1]} high, as the image"
        )
