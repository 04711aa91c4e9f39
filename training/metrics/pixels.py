"""How good images are. All images are [R, C, H, W] in [-1, 1]."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK = 2.0  # the range of [-1, 1]


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10 log10(peak^2 / MSE): [R], in dB, inf for equal images."""
    error = (images.double() - references.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(PEAK**2 / error)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each image, at most 1 (Wang et al. 2004, eq. 13): [R].

    Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03; only windows that lie wholly inside count. The
    luminance term is not free of an offset, so images are brought to [0, 1], black at 0, as published figures are.
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


class DigitJudge:
    """A classifier that never saw a generated image: a support vector machine on 2x2-pooled pixels.

    Enough for digits and other small, centred drawings; `accuracy` on held-out images says how far to trust it.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from sklearn.svm import SVC

        self.classifier = SVC(C=10, gamma="scale").fit(self._features(images), labels.numpy())

    def predict(self, images: Tensor) -> Tensor:
        """The most likely label of each image: [R] int64."""
        return torch.from_numpy(self.classifier.predict(self._features(images)))

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images [R, C, H, W] recognised as their labels [R]."""
        return float((self.predict(images) == labels).double().mean())

    @staticmethod
    def _features(images: Tensor) -> object:
        return F.avg_pool2d(images.float().cpu(), 2).flatten(1).numpy()


def condition_accuracy(judge: DigitJudge, images: Tensor, asked: Sequence[int]) -> float:
    """The share of generated images that the judge recognises as what was asked for."""
    return judge.accuracy(images, torch.tensor(asked))


def distinct_share(images: Tensor) -> float:
    """Distinct images over all images, compared as bytes; 1 where nothing repeats."""
    from training.data.image_set import to_bytes

    return len({image.tobytes() for image in to_bytes(images)}) / len(images)
