"""Random holes for training inpainting, as in LaMa (Suvorov et al. 2022, section 2.3 and the released code).

Rombach et al. 2022 follow LaMa's protocol (section 4.5). A stroke is a chain of thick lines with round ends. Sizes are
LaMa's for crops of 256 pixels and scale with the shorter side, so the hole covers a smaller share of a long image.
`narrow`, `medium` and `wide` are the strokes of its `random_thin_256`, `random_medium_256` and `random_thick_256`.
`mixed`, wide strokes or boxes with equal probability, is its training recipe.

Differences: LaMa draws up to 50 thin strokes, which cover as much as the medium ones, and up to one stroke more in
general. Its angles are whole radians. For evaluation it adds boxes to medium and thick masks, and drops masks that
cover more than half. Mean share of the hole in a square image of 64 pixels or more: narrow 0.1 to 0.25, medium 0.2 to
0.35, wide 0.35 to 0.5, boxes 0.2 to 0.35.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CROP = 256  # side of the image to which sizes refer
SMALLEST = 16  # side of an image
LINES = 5  # maximum per stroke


@dataclass(frozen=True)
class Strokes:
    """Inclusive ranges of what is drawn, in pixels of an image of CROP x CROP."""

    count: tuple[int, int]
    length: tuple[int, int]  # of one line
    width: tuple[int, int]


STROKES = {
    "narrow": Strokes(count=(4, 25), length=(10, 49), width=(5, 14)),
    "medium": Strokes(count=(4, 5), length=(10, 109), width=(5, 54)),
    "wide": Strokes(count=(1, 5), length=(10, 209), width=(5, 104)),
}
KINDS = (*STROKES, "boxes", "mixed")
BOXES = (1, 4)
BOX_SIDE = (30, 150)
MARGIN = 10  # around all boxes


def draw(kind: str, height: int, width: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a hole: [height, width], true in the hole, which is neither empty nor the whole image.

    kind: one of KINDS. Equal states of the generator give equal masks. Raises ValueError.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} is not known; permitted: {', '.join(KINDS)}")
    for field, value in (("height", height), ("width", width)):
        if value < SMALLEST:
            raise ValueError(f"{field}: {value} is not allowed; permitted: at least {SMALLEST}")
    while True:
        hole = _draw_once(kind, height, width, generator)
        if hole.any() and not hole.all():
            return hole


def _draw_once(kind: str, height: int, width: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    if kind == "mixed":
        kind = "wide" if generator.random() < 0.5 else "boxes"
    if kind == "boxes":
        return _boxes(height, width, generator)
    return _strokes(STROKES[kind], height, width, generator)


def _strokes(strokes: Strokes, height: int, width: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    scale = min(height, width) / CROP
    canvas = Image.new("L", (width, height))
    pencil = ImageDraw.Draw(canvas)
    for number in range(generator.integers(*strokes.count, endpoint=True)):
        x, y = generator.uniform(0, width - 1), generator.uniform(0, height - 1)
        side = 1 if number % 2 else -1  # strokes go right and left in turn
        for _ in range(generator.integers(1, LINES, endpoint=True)):
            angle = generator.uniform(0, np.pi)
            length = scale * generator.integers(*strokes.length, endpoint=True)
            thickness = max(1, round(scale * generator.integers(*strokes.width, endpoint=True)))
            end_x = float(np.clip(x + side * length * np.sin(angle), 0, width - 1))
            end_y = float(np.clip(y + length * np.cos(angle), 0, height - 1))
            pencil.line((x, y, end_x, end_y), fill=255, width=thickness)
            for point in ((x, y), (end_x, end_y)):
                pencil.circle(point, (thickness - 1) / 2, fill=255)
            x, y = end_x, end_y
    return np.asarray(canvas) > 0


def _boxes(height: int, width: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    scale = min(height, width) / CROP
    margin = round(scale * MARGIN)
    hole = np.zeros((height, width), np.bool_)
    for _ in range(generator.integers(*BOXES, endpoint=True)):
        rows, columns = (round(scale * side) for side in generator.integers(*BOX_SIDE, size=2, endpoint=True))
        top = generator.integers(margin, height - margin - rows, endpoint=True)
        left = generator.integers(margin, width - margin - columns, endpoint=True)
        hole[top : top + rows, left : left + columns] = True
    return hole
