"""Large images in tiles."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model import tiling
from training.model.autoencoder import Autoencoder, AutoencoderConfig


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 40), (33, 97), (17, 200), (48, 49), (5, 5)])
@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (32, 8), (16, 0), (24, 5)])
def test_a_pointwise_function_is_not_changed(height: int, width: int, tile: int, overlap: int) -> None:
    """The weights of all tiles sum to one everywhere."""
    x = torch.randn(2, 3, height, width)
    torch.testing.assert_close(tiling.blend_tiles(lambda t: 2 * t, x, tile, overlap, num=1, den=1), 2 * x)
    up = tiling.blend_tiles(lambda t: F.interpolate(t, scale_factor=4), x, tile, overlap, num=4, den=1)
    torch.testing.assert_close(up, F.interpolate(x, scale_factor=4))


def test_every_tile_has_the_given_size() -> None:
    seen: list[tuple[int, int]] = []

    def watched(tile: Tensor) -> Tensor:
        seen.append((tile.shape[2], tile.shape[3]))
        return tile

    tiling.blend_tiles(watched, torch.zeros(1, 1, 100, 70), 32, 8, num=1, den=1)
    assert seen == [(32, 32)] * (4 * 3)


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(
        AutoencoderConfig(channels=32, multipliers=(1, 1, 1), res_blocks=1, middle_attention=False)
    ).eval()


@torch.inference_mode()
def test_tiles_are_exact_if_their_overlap_covers_the_receptive_field(autoencoder: Autoencoder) -> None:
    """Without norms, which see one tile at a time, only the borders of tiles differ; they are dropped."""
    for module in autoencoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    latents = torch.randn(1, 4, 130, 60)
    whole = autoencoder.decode(latents)
    moved = latents.clone()
    moved[:, :, 65, 30] += 1
    touched = (autoencoder.decode(moved) != whole).any(1)[0].any(1).nonzero()
    assert 65 - int(touched.min()) // 4 < 15  # the decoder's reach: less than a quarter of the overlap
    tiled = tiling.decode(autoencoder, latents, tile=120, overlap=60)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    image = torch.randn(1, 3, 500, 240)
    tiled = tiling.encode(autoencoder, image, tile=480, overlap=240)
    expected = autoencoder.encode(image)
    torch.testing.assert_close(tiled, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.inference_mode()
def test_tiles_with_the_statistics_of_the_whole_image_are_exact(autoencoder: Autoencoder) -> None:
    latents = torch.randn(1, 4, 130, 60)
    whole = autoencoder.decode(latents)
    with tiling.shared_norms(autoencoder, lambda: autoencoder.decode(latents)):
        tiled = tiling.blend_tiles(autoencoder.decode, latents, 120, 60, num=4, den=1)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4 * float(whole.abs().max()))
    assert torch.equal(autoencoder.decode(latents), whole)  # nothing is left behind


@torch.inference_mode()
def test_an_empty_tile_has_the_colour_of_the_others(autoencoder: Autoencoder) -> None:
    """All tiles share the statistics of their norms, so what is the same in two tiles is decoded the same: no seam."""
    torch.manual_seed(1)
    latents = torch.zeros(1, 4, 96, 128)
    latents[..., :40] = torch.randn(1, 4, 96, 40)

    def spread(decoded: Tensor) -> float:
        """Of what lies in the empty part, out of reach of everything else."""
        flat = decoded[..., 60:-60, 4 * 55 : -60]
        return float((flat.amax((2, 3)) - flat.amin((2, 3))).max() / decoded.std())

    assert spread(autoencoder.decode(latents)) < 1e-3
    assert spread(tiling.decode(autoencoder, latents, tile=48, overlap=24)) < 3e-3
    assert spread(tiling.blend_tiles(autoencoder.decode, latents, 48, 24, num=4, den=1)) > 0.05  # each tile on its own


def test_an_image_that_fits_one_tile_is_not_tiled(autoencoder: Autoencoder) -> None:
    image = torch.randn(1, 3, 32, 24)
    torch.testing.assert_close(tiling.encode(autoencoder, image), autoencoder.encode(image))


def test_invalid_tiles_are_refused(autoencoder: Autoencoder) -> None:
    with pytest.raises(ValueError, match="tile, overlap: 30, 8 are not allowed; permitted: multiples of the factor 4"):
        tiling.encode(autoencoder, torch.zeros(1, 3, 64, 64), tile=30, overlap=8)
    with pytest.raises(ValueError, match="images: 66x64 pixels; both sides must be multiples of 4"):
        tiling.encode(autoencoder, torch.zeros(1, 3, 66, 64), tile=32, overlap=8)
    with pytest.raises(ValueError, match="tile: 0 is not allowed; permitted: at least 1"):
        tiling.decode(autoencoder, torch.zeros(1, 4, 64, 64), tile=0, overlap=0)
    with pytest.raises(ValueError, match=r"shape \[4, 64, 64\] is not allowed; permitted: \[R, C, height, width\]"):
        tiling.decode(autoencoder, torch.zeros(4, 64, 64))
    with pytest.raises(ValueError, match="overlap: 20 is not allowed; permitted: 0 to 16, half a tile"):
        tiling.decode(autoencoder, torch.zeros(1, 4, 64, 64), tile=32, overlap=20)
