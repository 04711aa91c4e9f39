"""Evaluations in the folder of training runs: samples above the training images that are nearest to them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.console.data_sets import DEEPEST, read_json

METRICS, SHEET = "metrics.json", "nearest.png"
FIGURES = ("nearest_training_image", "nearest_training_image_of_held_out_images", "nearer_than_any_held_out_image")
COPIES = 0.01  # the share of samples nearer than any held-out image from which a release is said to copy


@dataclass(frozen=True)
class Nearness:
    """How near samples are to training images. samples, held_out: medians of distances. nearer: a share of samples.

    distances: of the nearest samples, from the nearest; those below `closest` are nearer than any held-out image.
    """

    samples: float
    held_out: float
    nearer: float
    distances: Sequence[float]
    closest: float | None

    @property
    def may_copy(self) -> bool:
        """Whether more samples than COPIES are nearer to a training image than any held-out image is."""
        return self.nearer >= COPIES


def nearness_of(metrics: Mapping[str, Any]) -> Nearness | None:
    """Return what an evaluation has measured, or None for one that has no such figures."""
    try:
        samples, held_out, nearer = (float(metrics[name]) for name in FIGURES)
    except (KeyError, TypeError):
        return None
    pairs = metrics.get("nearest_pairs", {})
    return Nearness(samples, held_out, nearer, pairs.get("distances", ()), pairs.get("closest_held_out_image"))


def find_nearest_sheet(root: Path, digest: str) -> Path | None:
    """Return the sheet of the last evaluation of a release below a folder, or None."""
    found = []
    for folder, inner, files in os.walk(root):
        path = Path(folder)
        if METRICS in files and SHEET in files and read_json(path / METRICS).get("release_digest") == digest:
            found.append(path / SHEET)
        if len(path.relative_to(root).parts) >= DEEPEST:
            inner.clear()
    return max(found, key=lambda sheet: sheet.stat().st_mtime, default=None)
