"""Scale- and rotation-equivariance of the first stage (Kouzelis et al. 2025, EQ-VAE, eq. 5).

The decoder must map rotated and reduced latents to the rotated and reduced image. Such latents are smoother, and
diffusion models learn them faster.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.autoencoder import Autoencoder

SMALLEST_SHARE = 0.25  # of a side after reduction


@dataclass(frozen=True)
class Turn:
    """Quarter turns, then a resize to `side` latent positions, or none. factor: of the autoencoder."""

    quarters: int = 0
    side: tuple[int, int] | None = None
    factor: int = 1

    def latents(self, z: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, C, h', w']."""
        z = torch.rot90(z, self.quarters, (2, 3))
        return z if self.side is None else F.interpolate(z, size=self.side, mode="bilinear", antialias=True)

    def images(self, x: Tensor) -> Tensor:
        """[R, C, H, W] -> [R, C, h' f, w' f]."""
        x = torch.rot90(x, self.quarters, (2, 3))
        if self.side is None:
            return x
        size = (self.side[0] * self.factor, self.side[1] * self.factor)
        return F.interpolate(x, size=size, mode="bilinear", antialias=True)


def draw_turn(seed: int, probability: float, images: Tensor, autoencoder: Autoencoder, *, smallest: int) -> Turn:
    """Draw a turn with this probability, else none. It is the same for all images of a step.

    smallest: the shortest side in pixels to which images may be reduced.
    """
    generator = np.random.default_rng(seed)
    if generator.random() >= probability:
        return Turn()
    f = autoencoder.config.factor
    quarters = int(generator.integers(4))
    height, width = images.shape[2] // f, images.shape[3] // f
    if quarters % 2:
        height, width = width, height
    least = max(SMALLEST_SHARE, smallest / min(images.shape[2:]))
    share = float(generator.uniform(min(least, 1.0), 1.0))
    side = (max(1, round(height * share)), max(1, round(width * share)))
    return Turn(quarters, None if side == (height, width) else side, f)
