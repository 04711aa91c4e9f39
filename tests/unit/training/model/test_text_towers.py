"""The layers of OpenCLIP's text towers that a model reads."""

import pytest
import torch

from training.model.interop.compvis.text_towers import count_layers, drop_last_layer, rename_tower


@pytest.mark.parametrize(("layers", "kept"), [(24, 23), (23, 23), (3, 2)])
def test_the_last_layer_is_dropped_once(layers: int, kept: int) -> None:
    """Files that were converted from diffusers do not have it."""
    state = {f"model.transformer.resblocks.{i}.ln_1.weight": torch.ones(1) for i in range(layers)}
    assert count_layers(drop_last_layer(rename_tower(state), "ViT-H-14")) == kept
