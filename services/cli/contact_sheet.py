"""Contact sheets of a job's images."""

import io
from collections.abc import Sequence

from PIL import Image


def contact_sheet(images: Sequence[tuple[int, bytes]], *, columns: int, scale: int = 1) -> Image.Image:
    """A sheet of a job's images, (index, file) each: index i stands in row i // columns.

    One row an item when columns is the job's images_per_item. Missing images leave a gap.
    """
    opened = {index: Image.open(io.BytesIO(body)).convert("RGB") for index, body in images}
    width, height = next(iter(opened.values())).size
    cell_width, cell_height, gap = width * scale, height * scale, 2
    rows = max(opened) // columns + 1
    sheet = Image.new("RGB", (columns * (cell_width + gap) + gap, rows * (cell_height + gap) + gap), "white")
    for index, image in opened.items():
        row, column = divmod(index, columns)
        cell = image.resize((cell_width, cell_height), Image.Resampling.NEAREST)
        sheet.paste(cell, (gap + column * (cell_width + gap), gap + row * (cell_height + gap)))
    return sheet
