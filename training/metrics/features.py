"""The interface of networks that turn images into feature vectors."""

from typing import Protocol

from torch import Tensor


class FeatureNetwork(Protocol):
    """Turns images into vectors. Figures of two networks are comparable only if their digests are equal."""

    @property
    def name(self) -> str:
        """The name that is reported with every figure, such as "digits-CNN features"."""

    @property
    def digest(self) -> str:
        """sha256 of everything that determines the features."""

    def features(self, images: Tensor) -> Tensor:
        """Map images [R, C, H, W] in [-1, 1] to features [R, D] on the CPU. Raises ValueError for unsuitable images."""

    def probabilities(self, features: Tensor) -> Tensor | None:
        """Map features [R, D] to class probabilities [R, K]; None if the network has no exclusive classes."""
