"""Judges whether images show the requested class, with a classifier of real images."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Judge(Protocol):
    """Predicts the class of images. It must not be the network whose features are compared."""

    def predict(self, images: Tensor) -> Tensor:
        """Return the most likely label of each image [R, C, H, W] in [-1, 1]: [R] int64."""


class DigitJudge:
    """A support vector machine on 2x2-pooled pixels: as accurate as a small CNN on digits, with other mistakes.

    For digits and other small, centred drawings. Report its `accuracy` on held-out images with it.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from sklearn.svm import SVC

        self.classifier = SVC(C=10, gamma="scale").fit(self._features(images), labels.numpy())

    def predict(self, images: Tensor) -> Tensor:
        """See `Judge`."""
        return torch.from_numpy(self.classifier.predict(self._features(images)))

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Return the share of images [R, C, H, W] whose label [R] is recognised."""
        return float((self.predict(images) == labels).double().mean())

    @staticmethod
    def _features(images: Tensor) -> object:
        return F.avg_pool2d(images.float().cpu(), 2).flatten(1).numpy()


def condition_accuracy(judge: Judge, images: Tensor, requested: Sequence[int]) -> float:
    """Return the share of generated images in which the judge recognises the requested class."""
    return float((judge.predict(images) == torch.tensor(requested)).double().mean())
