"""How good images are, and whether they are what was asked for."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]: [N, C, H, W] twice -> [N]."""
    mean_squared_error = (a - b).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mean_squared_error)  # the peak-to-peak range is 2


def ssim(a: Tensor, b: Tensor, *, sigma: float = 1.5, size: int = 11) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of images in [-1, 1]: [N, C, H, W] twice -> [N].

    Gaussian window of 11 pixels, only where it fits into the image.
    """
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-offset.square() / (2 * sigma**2))
    weights = weights / weights.sum()
    window = torch.outer(weights, weights)[None, None]

    def local_mean(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None].double(), window)

    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a = local_mean(a.double().square()) - mean_a.square()
    var_b = local_mean(b.double().square()) - mean_b.square()
    covariance = local_mean(a.double() * b.double()) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2)
    )
    return similarity.flatten(1).mean(1).reshape(a.shape[:2]).mean(1)


class ClassJudge:
    """A classifier fitted on real images only, to tell whether generated ones show the class asked for.

    A support vector machine on 2x2-pooled pixels: fast, deterministic, and not a network like the one it judges.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from sklearn.svm import SVC

        self._model: Any = SVC(C=10.0, gamma="scale").fit(self._features(images), labels.numpy())

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images [N, C, H, W] in [-1, 1] recognised as their label, 0 to 1."""
        return float(self._model.score(self._features(images), labels.numpy()))

    @staticmethod
    def _features(images: Tensor) -> Any:
        return F.avg_pool2d(images, 2).flatten(1).numpy()


def distinct_share(images: Tensor) -> float:
    """Share of images that equal no other, 0 to 1, after rounding to 8 bits."""
    from training.data.image_set import to_bytes

    rows = [image.tobytes() for image in to_bytes(images)]
    return sum(rows.count(row) == 1 for row in rows) / len(rows)
