"""An image set that tells everything, and a small diffusion model of every kind of condition."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.conditioners import BERT
from training.data import image_set, vocabulary
from training.data.image_set import ImageSet
from training.model import conditioners
from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioners
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet, UNetConfig

PIECES = 50  # of words, that texts are made of
COUNT, SIDE, LATENT = 16, 16, (2, 8, 8)
TRANSFORMER = {"width": 16, "depth": 1, "heads": 1, "head_width": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "class": {"classes": 3, "width": 16},
    "text": {"length": 8, **TRANSFORMER},
    "frozen_text": {"encoder": {**BERT, "vocab_size": PIECES}, "length": 8, "width": 16},
    "layout": {"classes": 4, "objects": 2, "vocabulary": 64, **TRANSFORMER},
    "layout_map": {"classes": 4, "objects": 2, "channels": 5},
    "semantic_map": {"classes": 5, "channels": 3, "stages": 1},
    "low_resolution": {"channels": 1},
    "masked_image": {"channels": 1, "factor": 2},
}
MAPS = {"layout_map": 5, "semantic_map": 3, "low_resolution": 1, "masked_image": 3}  # channels beside the latent's


def written(folder: Path, **changes: Any) -> ImageSet:
    """10 training images and 6 held-out ones that tell everything."""
    rng = np.random.default_rng(0)
    records = [
        {
            "name": str(row), "label": row % 3, "text": f"picture {row}",
            "boxes": [{"class": row % 4, "box": [0.25, 0.0, 0.75, 1.0]}],
        }
        for row in range(COUNT)
    ]  # fmt: skip
    arguments: dict[str, Any] = {
        "images": rng.integers(0, 256, (COUNT, SIDE, SIDE, 1), dtype=np.uint8), "records": records, "train_count": 10,
        "maps": rng.integers(0, 5, (COUNT, SIDE, SIDE), dtype=np.uint8),
        "classes": ["ein Hund", "犬", "c"], "box_classes": list("defg"), "map_classes": list("hijkl"), **changes,
    }  # fmt: skip
    return image_set.write(folder, name="all", **arguments)


def model_of(autoencoder: Autoencoder, *kinds: str) -> LatentDiffusion:
    torch.manual_seed(0)
    assets = vocabulary.learn(["picture 0123456789"], PIECES)
    built = Conditioners(
        {
            kind: conditioners.build({"type": kind, **CONFIGS[kind]}, assets if "text" in kind else None)
            for kind in kinds
        }
    )
    tokens = any(kind not in MAPS for kind in kinds)
    unet = UNet(
        UNetConfig(
            in_channels=2 + sum(MAPS.get(kind, 0) for kind in kinds), out_channels=2, channels=32, multipliers=(1,),
            res_blocks=1, attention_factors=(1,), context_width=16 if tokens else None,
        )
    )  # fmt: skip
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return LatentDiffusion(autoencoder, unet, built, Diffusion(DiffusionConfig())).eval()
