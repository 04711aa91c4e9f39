"""Steering a sampling run: classifier-free guidance, and gradients of a guider on the decoded image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.autoencoder import Autoencoder


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of one image (Ho & Salimans 2022, eq. 6).

    scale: 1 is none, 0 the null condition. interval: the share of the timesteps, 0 the data and 1 the noise, where
    it applies (Kynkäänniemi et al. 2024); outside, the null condition is not evaluated at all. rescale: how far the
    answer is brought back to the conditional one's standard deviation (Lin et al. 2024, eq. 15 and 16).
    Raises ValueError naming the field that does not fit.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance interval: {self.interval} is not allowed; permitted: 0 <= low <= high <= 1")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance rescale: {self.rescale} is not allowed; permitted: 0 to 1")

    def applies(self, t: float, timesteps: int) -> bool:
        """Whether an evaluation at timestep t of `timesteps` needs the null condition too."""
        low, high = self.interval
        return self.scale != 1.0 and low <= t / (timesteps - 1) <= high


def guide(conditional: Tensor, null: Tensor, scale: Tensor, rescale: Tensor) -> Tensor:
    """The network's guided answer: conditional and null [R, ...], scale and rescale [R] -> [R, ...].

    With null = conditional it is exactly the conditional answer.
    """
    scale, rescale = (value.reshape(-1, *[1] * (conditional.dim() - 1)) for value in (scale, rescale))
    answer = null + scale * (conditional - null)
    if not rescale.any():
        return answer
    over = tuple(range(1, conditional.dim()))
    ratio = conditional.std(over, keepdim=True) / answer.std(over, keepdim=True)
    return answer * torch.where(rescale > 0, 1 + rescale * (ratio - 1), 1.0)


class ImageGuider:
    """Guides an unconditional model towards a low-resolution image (Rombach et al. 2022, appendix C).

    p(y | z_t) = N(y; T(D(z_0)), 1 / scale) with the decoder D and T average pooling to the size of y. Its gradient
    flows through the denoiser: eps <- eps - sigma grad log p, which is z_0 <- z_0 + (sigma^2 / alpha) grad log p.
    """

    def __init__(self, target: Tensor, scale: float) -> None:
        """target: y, [R, channels, H', W'] in [-1, 1]. scale: how strongly, in 1 / variance of a pixel."""
        self.target, self.scale = target, scale

    def log_likelihood(self, autoencoder: Autoencoder, denoised: Tensor) -> Tensor:
        """log p(y | z_t) up to a constant: the estimate of z_0 [R, C, h, w] -> [R]."""
        image = autoencoder.decode(denoised)
        seen = F.adaptive_avg_pool2d(image, (self.target.shape[2], self.target.shape[3]))
        return -0.5 * self.scale * (self.target.to(seen) - seen).square().flatten(1).sum(1)
