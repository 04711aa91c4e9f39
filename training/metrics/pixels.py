"""Compares images pixel by pixel. All images are [R, C, H, W] in [-1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.pixels import to_bytes

PEAK = 2.0  # the range of [-1, 1]
MOST = 100.0  # dB, which stand for the infinite ratio of equal images in a mean


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10 log10(peak^2 / MSE): [R], in dB, inf for equal images."""
    return 10 * torch.log10(PEAK**2 / squared_error(images, references))


def mean_psnr(images: Tensor, references: Tensor) -> float:
    """Return the mean of `psnr` over images, each at most MOST: in dB, and finite, as JSON needs it."""
    return float(psnr(images, references).clamp(max=MOST).mean())


def rms(images: Tensor, references: Tensor) -> Tensor:
    """Root of the mean squared error of each image, in 255ths of the range, the steps of 8-bit images: [R]."""
    return 255 / PEAK * squared_error(images, references).sqrt()


def squared_error(images: Tensor, references: Tensor) -> Tensor:
    """The mean squared error of each image: [R]."""
    return (images.double() - references.double()).square().flatten(1).mean(1)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each image, at most 1 (Wang et al. 2004, eq. 13): [R].

    Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03; only windows entirely inside the image count.
    The luminance term depends on an offset, so images are scaled to [0, 1], black at 0, as in published figures.
    Raises ValueError for images smaller than the window.
    """
    if min(images.shape[2:]) < 11:
        raise ValueError(f"images: {images.shape[2]}x{images.shape[3]} pixels; SSIM needs at least 11x11")
    offsets = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = window / window.sum()

    def local_mean(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)[:, None]  # [R C, 1, H, W]
        blurred = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
        return blurred.reshape(*x.shape[:2], *blurred.shape[2:])  # [R, C, H - 10, W - 10]

    x, y = ((i.double().cpu() + 1) / 2 for i in (images, references))
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x.square()
    variance_y = local_mean(y * y) - mean_y.square()
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    )
    return similarity.flatten(1).mean(1)


def distinct_share(images: Tensor) -> float:
    """Return the share of distinct images, compared as bytes; 1 if nothing repeats."""
    return len({image.tobytes() for image in to_bytes(images)}) / len(images)
