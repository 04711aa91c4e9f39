from pathlib import Path

import pytest
import torch

from training.metrics import lpips
from training.recipes.losses import AutoencoderLossConfig, ReconstructionLoss

# torchvision's VGG-16, configuration D: index of each convolution, in and out channels
VGG16 = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
         17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Random weights in the layout of the published files."""
    generator = torch.Generator().manual_seed(0)
    vgg = {}
    for index, (before, after) in VGG16.items():
        scale = (2 / (9 * before)) ** 0.5
        vgg[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=generator) * scale
        vgg[f"features.{index}.bias"] = torch.zeros(after)
    vgg["classifier.0.weight"] = torch.zeros(2, 2)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(heads, folder / "heads.pth")
    return str(folder / "vgg16.pth"), str(folder / "heads.pth")


def test_distance_is_zero_for_equal_images_only_and_symmetric(weights: tuple[str, str]) -> None:
    model = lpips.load(*weights)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert model(a, a).tolist() == [0.0, 0.0]
    assert (model(a, b) > 0.01).all()
    torch.testing.assert_close(model(a, b), model(b, a))
    torch.testing.assert_close(model(a, b)[:1], model(a[:1], b[:1]), rtol=1e-4, atol=1e-6)
    assert model(a[:, :1], b[:, :1]).shape == (2,)


def test_a_larger_change_is_a_larger_distance(weights: tuple[str, str]) -> None:
    model = lpips.load(*weights)
    a = torch.zeros(1, 3, 32, 32)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    near, far = (float(model(a, a + s * noise)) for s in (0.05, 0.5))
    assert near < far


def test_the_perceptual_term_is_weighted_once_per_image(weights: tuple[str, str]) -> None:
    vgg, heads = weights
    config = AutoencoderLossConfig(perceptual_weight=2.0, vgg_weights=vgg, lpips_weights=heads)
    a, b = torch.rand(2, 2, 1, 32, 32) * 2 - 1
    terms = ReconstructionLoss(config)(a, b, torch.tensor(0.25))
    torch.testing.assert_close(terms["total"], terms["l1"] + 2 * terms["perceptual"] + 0.25)
    assert float(terms["perceptual"]) > 0


def test_missing_files_are_named_with_the_field(weights: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"loss\.vgg_weights: .*nowhere.* set loss\.perceptual_weight=0"):
        lpips.load(str(tmp_path / "nowhere"), weights[1])
    with pytest.raises(FileNotFoundError, match=r"loss\.lpips_weights: .*nowhere"):
        lpips.load(weights[0], str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"'lin0\.model\.1\.weight' is missing"):
        lpips.load(weights[0], weights[0])
