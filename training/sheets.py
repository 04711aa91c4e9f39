"""Pictures of pictures."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def grid(images: NDArray[np.uint8], columns: int, *, scale: int = 1) -> Image.Image:
    """uint8 [N, H, W, 1 or 3], row by row -> one picture, each pixel `scale` wide, with white lines between."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
