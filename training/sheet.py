"""Contact sheets: many small images in one PNG."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from training.data.image_set import to_bytes

GAP = 2  # pixels of white between images
SHOWN_SIDE = 64  # smaller images are enlarged to at least this, without smoothing


def save(path: Path, images: Tensor, *, columns: int) -> None:
    """Write [R, C, H, W] in [-1, 1], C 1 or 3, row by row."""
    scale = max(1, SHOWN_SIDE // images.shape[-1])
    pixels = to_bytes(images).repeat(scale, axis=1).repeat(scale, axis=2)  # [R, H, W, C]
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(path)
