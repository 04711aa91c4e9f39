"""Experiments with every type of conditioner, and the small sets of images that they fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data import image_set
from training.data.image_set import ImageSet
from training.experiments.conditions import (
    ClassCondition,
    Condition,
    LayoutCondition,
    LayoutMapCondition,
    LowResolutionCondition,
    MaskedImageCondition,
    SemanticMapCondition,
    TextCondition,
)
from training.experiments.schema import DiffusionExperiment, ExperimentError
from training.model.autoencoder import AutoencoderConfig

Configured = Callable[..., DiffusionExperiment]
COUNT, SIDE, LATENT = 12, 16, 2
FIRST_STAGE = AutoencoderConfig(image_channels=1, latent_channels=LATENT, multipliers=(1, 2))
TRANSFORMER: dict[str, Any] = {"width": 16, "depth": 1, "heads": 1, "head_width": 8}
CONDITIONS: dict[str, Condition] = {
    "class": ClassCondition("class", 16),
    "text": TextCondition("text", length=8, vocabulary=60, **TRANSFORMER),
    "layout": LayoutCondition("layout", objects=2, vocabulary=64, **TRANSFORMER),
    "layout_map": LayoutMapCondition("layout_map", channels=5, objects=2),
    "semantic_map": SemanticMapCondition("semantic_map", channels=3, stages=1),
    "low_resolution": LowResolutionCondition("low_resolution", channels=1),
    "masked_image": MaskedImageCondition("masked_image", factor=2, channels=1),
}
MAPS = {
    "layout_map": 5,
    "semantic_map": 3,
    "low_resolution": 1,
    "masked_image": LATENT + 1,
}  # channels beside the latent's


def written(folder: Path, records: list[dict[str, Any]] | None = None, **changes: Any) -> ImageSet:
    """A set of 10 training images and 2 held-out ones that tells everything, or what it is told to."""
    everything = [
        {
            "name": str(row), "label": row % 3, "text": f"a picture of {row}",
            "boxes": [{"class": row % 4, "box": [0.0, 0.0, 0.5, 1.0]}] * 3,
        }
        for row in range(COUNT)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    arguments: dict[str, Any] = {
        "images": rng.integers(0, 256, (COUNT, SIDE, SIDE, 1), dtype=np.uint8),
        "maps": rng.integers(0, 5, (COUNT, SIDE, SIDE), dtype=np.uint8),
        "masks": np.full((COUNT, SIDE, SIDE), 255, np.uint8),
        "classes": ["a", "b", "c"], "box_classes": ["d", "e", "f", "g"], "map_classes": ["h", "i", "j", "k", "l"],
        **changes,
    }  # fmt: skip
    return image_set.write(folder, name="all", records=records or everything, train_count=10, **arguments)


def configure(
    base: DiffusionExperiment,
    conditioners: dict[str, Condition],
    unet: dict[str, Any] | None = None,
    **data: Any,
) -> DiffusionExperiment:
    """An experiment with these conditioners, over a U-Net that fits them unless it is told otherwise."""
    maps = sum(MAPS.get(one.type, 0) for one in conditioners.values())
    tokens = any(one.type not in MAPS for one in conditioners.values())
    fitting = {
        "in_channels": LATENT + maps, "out_channels": LATENT, "context_width": 16 if tokens else None,
        **(unet or {}),
    }  # fmt: skip
    model = replace(base.model, conditioners=conditioners, unet=replace(base.model.unet, **fitting))
    return replace(base, model=model, data=replace(base.data, **data))


def refused(message: str) -> Any:
    return pytest.raises(ExperimentError, match=f"^{message}$")
