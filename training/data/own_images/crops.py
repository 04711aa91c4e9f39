"""Crops and resizes images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]  # width, height


def crop_box(size: Size) -> tuple[int, int, int, int]:
    """Return the largest centred square, in whole pixels. An image of the right size is not resampled."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def resize(image: Image.Image, box: Sequence[float], scale: float, size: Size, channels: int) -> NDArray[np.uint8]:
    """Return a part of an image in another size, [H, W, C]. scale: of the image, of which `box` is in full size."""
    left, top, right, bottom = (edge * scale for edge in box)
    right, bottom = min(right, image.width), min(bottom, image.height)  # rounding
    small = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, right, bottom))
    return np.asarray(small, dtype=np.uint8).reshape(size[1], size[0], channels)
