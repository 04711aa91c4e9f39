"""Turns of latents and of images go together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.recipes.discriminator import PatchDiscriminator, smallest_image
from training.recipes.equivariance import SMALLEST_SHARE, Turn, draw_turn

SEEDS = range(300)


def of_factor(factor: int) -> Autoencoder:
    with torch.device("meta"):
        levels = factor.bit_length()
        return Autoencoder(AutoencoderConfig(channels=32, multipliers=(1,) * levels, res_blocks=1))


def images(height: int, width: int | None = None) -> Tensor:
    return torch.zeros(1, 3, height, width or height)


def turns(
    factor: int, height: int, width: int | None = None, probability: float = 1.0, smallest: int = 24
) -> list[Turn]:
    autoencoder, shown = of_factor(factor), images(height, width)
    return [draw_turn(seed, probability, shown, autoencoder, smallest=smallest) for seed in SEEDS]


def encode(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 4)


def decode(z: Tensor) -> Tensor:
    return F.interpolate(z, scale_factor=4, mode="nearest")


@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_of_latents_are_those_of_images(quarters: int) -> None:
    x = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    turn = Turn(quarters, None, 4)
    torch.testing.assert_close(turn.latents(encode(x)), encode(turn.images(x)))
    torch.testing.assert_close(decode(turn.latents(encode(x))), turn.images(decode(encode(x))))
    assert torch.equal(turn.images(x), torch.rot90(x, quarters, (2, 3)))


def test_no_turn_is_the_identity() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert Turn().latents(x) is not None
    assert torch.equal(Turn().latents(x), x)
    assert torch.equal(Turn().images(x), x)


@pytest.mark.parametrize("side", [(4, 4), (6, 6), (7, 7)])
@pytest.mark.parametrize("quarters", [0, 1])
def test_smaller_latents_are_those_of_smaller_images(quarters: int, side: tuple[int, int]) -> None:
    """Of pictures that change evenly, which averages do not change."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    ramp = torch.stack([x, y, 0.3 * x - 0.7 * y])[None]
    turn = Turn(quarters, side, 4)
    of_latents, of_images = turn.latents(encode(ramp)), encode(turn.images(ramp))
    assert of_latents.shape == of_images.shape == (1, 3, *side)
    inside = (..., slice(1, -1), slice(1, -1))  # at the edges there is nothing to average over
    torch.testing.assert_close(of_latents[inside], of_images[inside], rtol=0, atol=0.03)
    assert (of_images - of_images.flip(-1)).abs().amax() > 0.3  # not for want of a difference


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (96, 48)])
def test_the_turned_image_has_the_turned_latents_size(height: int, width: int) -> None:
    z, x = torch.zeros(1, 2, height // 4, width // 4), images(height, width)
    for turn in turns(4, height, width):
        of_latents, of_images = turn.latents(z), turn.images(x)
        assert of_images.shape[2:] == torch.Size(4 * side for side in of_latents.shape[2:])
        before = (width, height) if turn.quarters % 2 else (height, width)
        shares = [after / whole for after, whole in zip(of_images.shape[2:], before, strict=True)]
        assert all(share <= 1 for share in shares)
        assert abs(shares[0] - shares[1]) <= 4 / min(before)  # the shape of the picture stays


def test_all_quarters_and_sizes_are_drawn() -> None:
    found = turns(4, 128)
    counts = np.bincount([turn.quarters for turn in found], minlength=4)
    assert counts.min() > 45
    assert counts.max() < 110
    sides = [32 if turn.side is None else turn.side[0] for turn in found]
    assert min(sides) == SMALLEST_SHARE * 32
    assert set(sides) == set(range(8, 33))


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
@pytest.mark.parametrize("height", [32, 48, 64, 96, 128, 256])
@pytest.mark.parametrize("layers", [2, 3, 5])
def test_no_image_is_too_small_for_the_discriminator(factor: int, height: int, layers: int) -> None:
    smallest = smallest_image(layers)
    for turn in turns(factor, height, smallest=smallest):
        assert turn.factor == factor or turn == Turn()
        if turn.side is not None:
            assert min(turn.side) * factor >= max(smallest, SMALLEST_SHARE * height - factor / 2)
            assert max(turn.side) * factor < height


def test_images_that_are_small_already_are_turned_alone() -> None:
    found = turns(2, 16)
    assert {turn.side for turn in found} == {None}
    assert {turn.quarters for turn in found} == {0, 1, 2, 3}


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.75, 1.0])
def test_turns_are_as_frequent_as_is_asked(probability: float) -> None:
    found = turns(4, 256, probability=probability)
    share = np.mean([turn != Turn() for turn in found])
    assert share == pytest.approx(probability, abs=0.08 if 0 < probability < 1 else 0.02 * probability)


def test_a_turn_is_a_function_of_its_seed() -> None:
    assert turns(4, 64) == turns(4, 64)
    assert len(set(turns(4, 64))) > 20


@pytest.mark.parametrize("layers", range(1, 6))
def test_the_discriminator_judges_the_smallest_image_and_none_that_is_smaller(layers: int) -> None:
    judge = PatchDiscriminator(channels=1, layers=layers)
    side = smallest_image(layers)
    assert judge(torch.zeros(2, 3, side, side)).shape == (2, 1, 1, 1)
    with pytest.raises(RuntimeError, match="Kernel size"):
        judge(torch.zeros(2, 3, side - 1, side - 1))
