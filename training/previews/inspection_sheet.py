"""Draws an inspection: histograms of sizes and classes above a contact sheet of images."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.data.own_images.inspection import Inspection
from training.data.own_images.looks import THUMBNAIL, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS, ROWS = 12, 6
CLASSES = 20  # bars, the most frequent
GAP = 4  # pixels between images
SPREAD = 10  # pixels that the histogram of sizes shows at least


def save(path: Path, found: Inspection) -> None:
    """Write the figure to `path`; its ending says the format, for example .png. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 2.4])
    sides = figure.add_subplot(grid[0, 0])
    shorter = [min(one.size) for one in found.looks] or [0]
    low, high = min(shorter), max(shorter)
    edges = np.linspace(low - 0.5, high + 0.5, min(30, high - low + 1) + 1)
    sides.hist(shorter, bins=edges.tolist(), color="#4878a8")
    for axis in (sides.xaxis, sides.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    if high - low < SPREAD:  # a bar alone would fill the whole width
        sides.set_xlim((low + high - SPREAD) / 2, (low + high + SPREAD) / 2)
    sides.set(title="shorter side, pixels", ylabel="images looked at")
    draw_classes(figure.add_subplot(grid[0, 1]), found)
    shown = choose(found)
    sheet = figure.add_subplot(grid[1, :])
    sheet.imshow(tile(shown))
    sheet.set_anchor("N")
    sheet.set_axis_off()
    figure.suptitle(f"{plain(found.source)}: {found.images:,} images, {len(found.looks):,} looked at", parse_math=False)
    figure.savefig(path, dpi=100)


def draw_classes(bars: "Axes", found: Inspection) -> None:
    """Draw a bar for each of the most frequent classes; only a title without labels."""
    from matplotlib.ticker import MaxNLocator

    names = [name for name, _ in Counter(found.classes).most_common(CLASSES)]
    if not names:
        bars.set(title="no labels")
        bars.set_axis_off()
        return
    bars.barh([plain(name) for name in names], [found.classes[name] for name in names], color="#4878a8")
    bars.invert_yaxis()
    bars.xaxis.set_major_locator(MaxNLocator(integer=True))
    more = f", the most frequent {CLASSES} of {len(found.classes):,}" if len(found.classes) > CLASSES else ""
    bars.set(title=f"images of each class{more}")


def plain(text: str) -> str:
    """Return a text that matplotlib draws as it is, shortened, with ? for what its font has not, such as kanji."""
    known = drawable()
    return "".join(c if ord(c) in known else "?" for c in text[:40]).replace("$", r"\$")


@cache
def drawable() -> frozenset[int]:
    """Return the characters of the font that matplotlib draws with."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())


def choose(found: Inspection) -> list[Look]:
    """Return images for the sheet: one of each class after another."""
    by_class: dict[str, list[Look]] = {}
    for one in found.looks:
        by_class.setdefault(found.labels.get(one.name, ""), []).append(one)
    rounds = [group[i] for i in range(COLUMNS * ROWS) for group in by_class.values() if i < len(group)]
    return sorted(rounds[: COLUMNS * ROWS], key=lambda one: (found.labels.get(one.name, ""), one.name))


def tile(looks: list[Look]) -> np.ndarray:
    """Return thumbnails row by row, with white between them: [height, width, 3] uint8."""
    rows, side = max(1, -(-len(looks) // COLUMNS)), THUMBNAIL + GAP
    sheet = np.full((rows * side, COLUMNS * side, 3), 255, np.uint8)
    for i, one in enumerate(looks):
        top, left = i // COLUMNS * side, i % COLUMNS * side
        sheet[top : top + THUMBNAIL, left : left + THUMBNAIL] = one.thumbnail
    return sheet
