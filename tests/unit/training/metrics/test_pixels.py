import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.metrics import pixels


def images(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(rows, 2, 20, 24, generator=generator) * 2 - 1
    noise = torch.randn(reference.shape, generator=generator) * torch.tensor([0.05, 0.2, 0.8])[:rows, None, None, None]
    return (reference + noise).clamp(-1, 1), reference


def test_psnr_is_that_of_its_definition() -> None:
    reference = torch.zeros(2, 1, 4, 4)
    shifted = reference + torch.tensor([0.2, 0.02])[:, None, None, None]
    assert pixels.psnr(shifted, reference).tolist() == pytest.approx([20.0, 40.0], abs=1e-5)
    assert math.isinf(float(pixels.psnr(reference[:1], reference[:1])))


def test_rms_is_in_steps_of_8_bit_images() -> None:
    reference = torch.full((3, 1, 4, 4), -1.0)
    changed = reference.clone()
    changed[0] = 1  # white for black
    changed[1, 0, 0, 0] += 2 * 8 / 255  # one pixel of sixteen, by eight steps
    assert pixels.rms(changed, reference).tolist() == pytest.approx([255.0, 2.0, 0.0], abs=1e-4)


def ssim_by_definition(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Wang et al. 2004 window by window, for one channel of values 0..255."""
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (image[top : top + 11, left : left + 11] for image in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            values.append(luminance * (2 * covariance + c2) / (variance_a + variance_b + c2))
    return float(np.mean(values))


def test_ssim_is_that_of_its_definition_on_the_0_to_255_scale() -> None:
    # The published constants are for 0..255; ours is computed there too, so that the offset of [-1, 1] would show.
    x, y = images()
    a, b = ((i.double().numpy() + 1) * 127.5 for i in (x, y))
    expected = [
        np.mean([ssim_by_definition(*pair) for pair in zip(p, q, strict=True)]) for p, q in zip(a, b, strict=True)
    ]
    found = pixels.ssim(x, y).tolist()
    assert found == pytest.approx(expected, abs=1e-10)
    assert found[0] > found[1] > found[2]


def test_ssim_of_equal_images_is_one_and_small_images_are_refused() -> None:
    x, _ = images()
    assert pixels.ssim(x, x).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    with pytest.raises(ValueError, match="10x24 pixels; SSIM needs at least 11x11"):
        pixels.ssim(x[..., :10, :], x[..., :10, :])


def test_repeated_images_lower_the_distinct_share() -> None:
    x, _ = images()
    assert pixels.distinct_share(x) == 1.0
    assert pixels.distinct_share(torch.cat([x, x[:1]])) == 0.75
