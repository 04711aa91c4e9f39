"""Draws an inspection: histograms of sizes and classes above a contact sheet of images."""

from collections import Counter
from pathlib import Path

import numpy as np

from training.data.own_images.inspection import Inspection
from training.data.own_images.looks import THUMBNAIL, Look

COLUMNS, ROWS = 12, 6
CLASSES = 20  # bars, the most frequent


def save(path: Path, found: Inspection) -> None:
    """Write the figure to `path`; its ending says the format, for example .png. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 2.4])
    sides = figure.add_subplot(grid[0, 0])
    shorter = [min(one.size) for one in found.looks] or [0]
    edges = np.linspace(min(shorter) - 0.5, max(shorter) + 0.5, min(30, max(shorter) - min(shorter) + 1) + 1)
    sides.hist(shorter, bins=edges.tolist(), color="#4878a8")
    sides.locator_params(integer=True)
    sides.set(title="shorter side, pixels", ylabel="images looked at")
    bars = figure.add_subplot(grid[0, 1])
    names = [name for name, _ in Counter(found.classes).most_common(CLASSES)]
    bars.barh([plain(name) for name in names], [found.classes[name] for name in names], color="#4878a8")
    bars.invert_yaxis()
    more = f", the most frequent {CLASSES} of {len(found.classes):,}" if len(found.classes) > CLASSES else ""
    bars.set(title=f"images of each class{more}" if names else "no labels")
    shown = choose(found)
    sheet = figure.add_subplot(grid[1, :])
    sheet.imshow(tile(shown))
    sheet.set_axis_off()
    figure.suptitle(f"{plain(found.source)}: {found.images:,} images, {len(found.looks):,} looked at", parse_math=False)
    figure.savefig(path, dpi=100)


def plain(text: str) -> str:
    """Return a text that matplotlib draws as it is, and shortened. The drawing font has few scripts."""
    return "".join(c if ord(c) < 0x250 else "?" for c in text[:40]).replace("$", r"\$")


def choose(found: Inspection) -> list[Look]:
    """Return images for the sheet: one of each class after another."""
    by_class: dict[str, list[Look]] = {}
    for one in found.looks:
        by_class.setdefault(found.labels.get(one.name, ""), []).append(one)
    rounds = [group[i] for i in range(COLUMNS * ROWS) for group in by_class.values() if i < len(group)]
    return sorted(rounds[: COLUMNS * ROWS], key=lambda one: (found.labels.get(one.name, ""), one.name))


def tile(looks: list[Look]) -> np.ndarray:
    """Return thumbnails row by row: [height, width, 3] uint8."""
    rows = max(1, -(-len(looks) // COLUMNS))
    sheet = np.full((rows * THUMBNAIL, COLUMNS * THUMBNAIL, 3), 255, np.uint8)
    for i, one in enumerate(looks):
        top, left = i // COLUMNS * THUMBNAIL, i % COLUMNS * THUMBNAIL
        sheet[top : top + THUMBNAIL, left : left + THUMBNAIL] = one.thumbnail
    return sheet
