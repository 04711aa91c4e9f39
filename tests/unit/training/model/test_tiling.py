"""Large images in tiles."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.model import tiling
from training.model.autoencoder import Autoencoder, AutoencoderConfig


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 40), (33, 97), (17, 200), (48, 49), (5, 5)])
@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (32, 8), (16, 0), (24, 5)])
def test_a_pointwise_function_is_not_changed(height: int, width: int, tile: int, overlap: int) -> None:
    """The weights of all tiles sum to one everywhere."""
    x = torch.randn(2, 3, height, width)
    torch.testing.assert_close(tiling.blended(lambda t: 2 * t, x, tile, overlap, num=1, den=1), 2 * x)
    up = tiling.blended(lambda t: F.interpolate(t, scale_factor=4), x, tile, overlap, num=4, den=1)
    torch.testing.assert_close(up, F.interpolate(x, scale_factor=4))


def test_no_tile_is_larger_than_told() -> None:
    seen: list[tuple[int, int]] = []

    def watched(tile: Tensor) -> Tensor:
        seen.append((tile.shape[2], tile.shape[3]))
        return tile

    tiling.blended(watched, torch.zeros(1, 1, 100, 70), 32, 8, num=1, den=1)
    assert max(max(shape) for shape in seen) == 32
    assert len(seen) == 4 * 3


def test_a_convolution_is_exact_where_tiles_overlap_by_its_reach() -> None:
    """Away from a tile's border the answer is the whole one's; the border has next to no weight."""
    kernel = torch.rand(1, 1, 3, 3)
    x = torch.randn(1, 1, 96, 96)
    whole = F.conv2d(x, kernel, padding=1)
    found = tiling.blended(lambda t: F.conv2d(t, kernel, padding=1), x, 48, 24, num=1, den=1)
    assert float((found - whole).abs().max()) < 0.05 * float(whole.abs().max())
    inner = torch.ones(96, dtype=torch.bool)
    for edge in (24, 47, 48, 71):
        inner[edge] = False
    torch.testing.assert_close(found[..., inner, :][..., inner], whole[..., inner, :][..., inner])


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(
        AutoencoderConfig(channels=32, multipliers=(1, 1, 1), res_blocks=1, middle_attention=False)
    ).eval()


@torch.inference_mode()
def test_tiles_of_an_autoencoder_show_no_seam(autoencoder: Autoencoder) -> None:
    """Group norm sees one tile at a time, so tiles differ from the whole; blending spreads that over the overlap."""
    coarse = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(-1, 1)
    whole = autoencoder.encode(image)
    latents = tiling.encode(autoencoder, image, tile=128, overlap=64)
    assert float((latents - whole).norm() / whole.norm()) < 0.2
    expected = autoencoder.decode(whole)

    def seam(overlap: int) -> float:
        """How much more the difference to the whole changes at a tile's edge than elsewhere."""
        difference = tiling.decode(autoencoder, whole, tile=32, overlap=overlap) - expected
        changes = difference.diff(dim=3).abs().mean(dim=(0, 1, 2))
        edges = [4 * k - 1 for k in range(32 - overlap, 64, 32 - overlap)]
        return float(changes[edges].max() / changes.median())

    assert seam(overlap=16) < 1.5
    assert seam(overlap=0) > 2  # what is looked for can be seen


def test_one_tile_is_the_whole(autoencoder: Autoencoder) -> None:
    image = torch.randn(1, 3, 32, 24)
    torch.testing.assert_close(tiling.encode(autoencoder, image), autoencoder.encode(image))


def test_tiles_that_cannot_be_are_named(autoencoder: Autoencoder) -> None:
    with pytest.raises(ValueError, match="tile, overlap: 30, 8 are not allowed; permitted: multiples of the factor 4"):
        tiling.encode(autoencoder, torch.zeros(1, 3, 64, 64), tile=30, overlap=8)
    with pytest.raises(ValueError, match="overlap: 20 is not allowed; permitted: 0 to 16, half a tile"):
        tiling.decode(autoencoder, torch.zeros(1, 4, 64, 64), tile=32, overlap=20)
