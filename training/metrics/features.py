"""What images are compared by: a network's view of each, as a vector."""

from typing import Protocol

from torch import Tensor


class FeatureNetwork(Protocol):
    """Turns images into vectors. Figures made with two networks compare only where their digests are equal."""

    @property
    def name(self) -> str:
        """As it stands beside every figure, such as "digits-CNN features"."""

    @property
    def digest(self) -> str:
        """sha256 of what decides the features."""

    def features(self, images: Tensor) -> Tensor:
        """Images [R, C, H, W] in [-1, 1] -> features [R, D] on the CPU. Raises ValueError for images it cannot take."""

    def probabilities(self, features: Tensor) -> Tensor | None:
        """Of K classes for each image, from its features [R, D]: [R, K]; None where its outputs are not one of K."""
