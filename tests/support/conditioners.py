"""A small conditioner of every type, with values for it."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.model import conditioners
from training.model.conditioners import Conditioner
from training.model.conditioners.conditioner import MapConditioner, TokenConditioner

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "cat", "##s", "cafe", "."]
SIZE = (4, 6)  # of the latent
TRANSFORMER = {"width": 16, "depth": 2, "heads": 2, "head_width": 4}
BERT = {
    "model_type": "bert", "vocab_size": len(PIECES), "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 16,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "class": {"classes": 3, "width": 16},
    "token_ids": {"vocabulary": 10, "length": 6, **TRANSFORMER},
    "text": {"length": 6, **TRANSFORMER},
    "frozen_text": {"encoder": BERT, "length": 6, "width": 16},
    "layout": {"classes": 4, "objects": 3, "vocabulary": 16, "crops": True, **TRANSFORMER},
    "layout_map": {"classes": 4, "objects": 3, "channels": 5},
    "semantic_map": {"classes": 5, "channels": 3, "stages": 1},
    "low_resolution": {"channels": 3},
    "masked_image": {"channels": 3, "factor": 2},
}
TOKENS = [kind for kind in CONFIGS if kind not in ("layout_map", "semantic_map", "low_resolution", "masked_image")]


def build_conditioner(kind: str, assets: dict[str, bytes], **changes: Any) -> Conditioner:
    torch.manual_seed(0)
    config = {"type": kind, **CONFIGS[kind], **changes}
    return conditioners.build(config, assets if kind in ("text", "frozen_text") else None).eval()


def example_values(kind: str) -> list[Any]:
    """Return two values of a conditioner type."""
    rng = np.random.default_rng(0)
    height, width = 2 * SIZE[0], 2 * SIZE[1]
    pixels = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]
    values: dict[str, list[Any]] = {
        "class": [0, 2],
        "token_ids": [[1, 9, 3], []],
        "text": ["A red cat", "cats"],
        "frozen_text": ["A red cat", "cats"],
        "layout": [{"boxes": [{"class": 3, "box": [0, 0, 0.5, 1]}]}, {"boxes": [], "crop": [0.2, 0, 1, 1]}],
        "layout_map": [
            {"boxes": [{"class": 3, "box": [0, 0, 0.5, 1]}]},
            {"boxes": [{"class": 0, "box": [0.2, 0, 1, 1]}] * 3},
        ],
        "semantic_map": [rng.integers(0, 5, (height, width)) for _ in range(2)],
        "low_resolution": [pixels[0], torch.rand(3, *SIZE) * 2 - 1],
        "masked_image": [{"image": image, "mask": rng.random((height, width)) < 0.5} for image in pixels],
    }
    return values[kind]


def encode_images(images: Tensor) -> Tensor:
    """Encode images as a first stage of factor 2 with 3 channels would."""
    return F.avg_pool2d(images, 2) * 0.5


def embed(conditioner: Conditioner, values: list[Any]) -> Tensor:
    if isinstance(conditioner, MapConditioner):
        return conditioner.embed(values, SIZE, encode_images)
    assert isinstance(conditioner, TokenConditioner)
    return conditioner.embed(values)
