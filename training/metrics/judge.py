"""Whether images show the class that was asked for, as a classifier of real images sees it."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Judge(Protocol):
    """Says which class an image shows. It must not be the network whose features the same images are compared by."""

    def predict(self, images: Tensor) -> Tensor:
        """The most likely label of each image [R, C, H, W] in [-1, 1]: [R] int64."""


class DigitJudge:
    """A support vector machine on 2x2-pooled pixels: as good as a small CNN on digits, and unlike one in its mistakes.

    For digits and other small, centred drawings; `accuracy` on held-out images says how far to trust it.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from sklearn.svm import SVC

        self.classifier = SVC(C=10, gamma="scale").fit(self._features(images), labels.numpy())

    def predict(self, images: Tensor) -> Tensor:
        """See `Judge`."""
        return torch.from_numpy(self.classifier.predict(self._features(images)))

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images [R, C, H, W] recognised as their labels [R]."""
        return float((self.predict(images) == labels).double().mean())

    @staticmethod
    def _features(images: Tensor) -> object:
        return F.avg_pool2d(images.float().cpu(), 2).flatten(1).numpy()


def condition_accuracy(judge: Judge, images: Tensor, asked: Sequence[int]) -> float:
    """The share of generated images that the judge recognises as what was asked for."""
    return float((judge.predict(images) == torch.tensor(asked)).double().mean())
