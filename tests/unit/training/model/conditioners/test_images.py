"""Semantic maps, low-resolution images and masked images as maps of the latent's size."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.conditioners import SIZE, encode_images
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner, SpatialRescaler


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("channels", [3, None])
def test_rescaling_labels_equals_rescaling_one_hot_maps(method: Any, channels: int | None) -> None:
    rescaler = SpatialRescaler(5, channels, stages=2, method=method)
    labels = torch.randint(0, 5, (2, 16, 24))
    expected = rescaler(F.one_hot(labels, 5).permute(0, 3, 1, 2).float())
    assert expected.shape == (2, channels or 5, *SIZE)
    torch.testing.assert_close(rescaler.rescale_labels(labels), expected, rtol=0, atol=1e-6)


def test_a_semantic_map_without_labels_is_zeros() -> None:
    conditioner = SemanticMapConditioner(5, 3, stages=1)
    labels = np.zeros((8, 12, 1), np.uint8)
    maps = conditioner.embed([None, labels], SIZE, encode_images)
    assert not maps[0].any()
    assert conditioner.rescaler.project is not None
    torch.testing.assert_close(maps[1], conditioner.rescaler.project.weight[:, 0].expand(3, *SIZE))


def test_a_low_resolution_image_of_the_latents_size_is_unchanged() -> None:
    conditioner = LowResolutionConditioner()
    image = torch.rand(3, *SIZE) * 2 - 1
    large = np.zeros((40, 60, 3), np.uint8)
    large[:, 30:] = 255
    maps = conditioner.embed([image, None, large], SIZE, encode_images)
    assert torch.equal(maps[0], image)
    assert not maps[1].any()
    assert maps[2, :, :, :2].max() < -0.9
    assert maps[2, :, :, 4:].min() > 0.9
    assert maps.abs().max() <= 1


def inpainting_reference(image: np.ndarray, mask: np.ndarray) -> Tensor:
    """What the released inpainting script does with two decoded files."""
    pixels = torch.from_numpy(image.astype(np.float32) / 255).movedim(2, 0)[None]
    hole = torch.from_numpy((mask.astype(np.float32) / 255 >= 0.5).astype(np.float32))[None, None]
    latent = encode_images((1 - hole) * pixels * 2 - 1)
    return torch.cat([latent, F.interpolate(hole * 2 - 1, size=latent.shape[-2:])], dim=1)[0]


def test_a_masked_image_follows_the_released_recipe() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    mask = rng.integers(0, 256, (8, 12), dtype=np.uint8)
    mask[0, :2] = 127, 128  # just outside the hole, just inside
    conditioner = MaskedImageConditioner(factor=2)
    maps = conditioner.embed([{"image": image, "mask": mask}, None], SIZE, encode_images)
    torch.testing.assert_close(maps[0], inpainting_reference(image, mask), rtol=0, atol=1e-6)
    assert torch.equal(maps[1], inpainting_reference(image, np.full((8, 12), 255, np.uint8)))
    for same in (mask >= 128, (mask >= 128).astype(np.float32), torch.from_numpy(mask)[:, :, None]):
        again = conditioner.embed([{"image": image, "mask": same}], SIZE, encode_images)
        assert torch.equal(again[0], maps[0])
