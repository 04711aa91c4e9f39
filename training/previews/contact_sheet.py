"""Image sheets: many small images in one, with optional captions below and names of rows to the left."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from training.model.pixels import to_bytes
from training.previews import font

GAP = 2  # pixels of white between images
LEAST_SIDE = 64  # smaller images are enlarged by a whole factor, without smoothing
LINES = 3  # of a caption, at most
FONT_SIZE = 9
MOST_NAME = 120  # pixels of a row's name; longer ones are cut off


def draw(images: Tensor, *, columns: int, captions: Sequence[str] = (), rows: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Draw images [R, C, H, W] in [-1, 1], C 1 or 3, row by row -> [height, width, C].

    captions: below the last row, one per column. rows: left of each row, one per row.
    """
    scale = max(1, LEAST_SIDE // images.shape[-1])
    pixels = to_bytes(images).repeat(scale, axis=1).repeat(scale, axis=2)  # [R, H, W, C]
    count, height, width, channels = pixels.shape
    down = -(-count // columns)
    foot = LINES * (FONT_SIZE + 2) if captions else 0
    sheet = np.full((down * (height + GAP) + GAP + foot, columns * (width + GAP) + GAP, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    if captions:
        words = draw_captions(captions, width, sheet.shape[1], foot)
        sheet[-foot:] = np.minimum(sheet[-foot:], words[..., None])
    if rows:
        names = draw_row_names(rows, height, len(sheet))
        sheet = np.concatenate([np.repeat(names[..., None], channels, axis=2), sheet], axis=1)
    return sheet


def draw_row_names(names: Sequence[str], height: int, total: int) -> NDArray[np.uint8]:
    """Draw a name beside the middle of each row of `height` pixels, black on white, [total, width]."""
    letters = font.load(FONT_SIZE)
    width = min(MOST_NAME, 2 * GAP + max(int(letters.getlength(name)) + 1 for name in names))
    canvas = Image.new("L", (width, total), 255)
    pen = ImageDraw.Draw(canvas)
    for row, name in enumerate(names):
        pen.text((GAP, GAP + row * (height + GAP) + (height - FONT_SIZE) // 2), name, fill=0, font=letters)
    return np.asarray(canvas)


def draw_captions(captions: Sequence[str], width: int, total: int, height: int) -> NDArray[np.uint8]:
    """Draw captions in columns of `width` pixels, black on white, [height, total]."""
    row = np.full((height, total), 255, np.uint8)
    letters = font.load(FONT_SIZE)
    for column, caption in enumerate(captions):
        canvas = Image.new("L", (width, height), 255)  # cuts off words that are too wide
        pen = ImageDraw.Draw(canvas)
        lines = [""]
        for word in caption.split():
            longer = f"{lines[-1]} {word}".strip()
            if pen.textlength(longer, letters) <= width or not lines[-1]:
                lines[-1] = longer
            else:
                lines.append(word)
        pen.multiline_text((0, 0), "\n".join(lines[:LINES]), fill=0, font=letters, spacing=1)
        left = GAP + column * (width + GAP)
        row[:, left : left + width] = np.asarray(canvas)
    return row


def save(
    path: Path, images: Tensor, *, columns: int, captions: Sequence[str] = (), rows: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Write a sheet as PNG and return it, [height, width, C]; see `draw`."""
    sheet = draw(images, columns=columns, captions=captions, rows=rows)
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(path)
    return sheet
