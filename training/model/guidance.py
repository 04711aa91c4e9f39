"""Classifier-free guidance, and guidance by the gradient of a likelihood of the decoded image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.autoencoder import Autoencoder


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of one image (Ho & Salimans 2022, eq. 6).

    scale: 1 means no guidance, 0 the null condition alone.
    interval: the part of the schedule with guidance, from 0 (the data) to 1 (the noise); outside it the null condition
        is not evaluated (Kynkäänniemi et al. 2024).
    rescale: how far the output is scaled back to the conditional output's standard deviation, from 0 to 1
        (Lin et al. 2024, eq. 15 and 16).
    Raises ValueError naming the invalid field.
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
        """Return whether an evaluation at timestep t of `timesteps` needs the null condition too."""
        low, high = self.interval
        return self.scale != 1.0 and low <= t / (timesteps - 1) <= high


def guide(conditional: Tensor, null: Tensor, scale: Tensor, rescale: Tensor | None) -> Tensor:
    """Return the guided output of the network: conditional and null [R, ...], scale and rescale [R] -> [R, ...].

    rescale: None means 0 for every row. If null equals conditional, so does the result.
    """
    each = (-1, *[1] * (conditional.dim() - 1))
    answer = null + scale.view(each) * (conditional - null)
    if rescale is None:
        return answer
    rescale = rescale.view(each)
    over = tuple(range(1, conditional.dim()))
    ratio = conditional.std(over, keepdim=True) / answer.std(over, keepdim=True)
    return answer * torch.where(rescale > 0, 1 + rescale * (ratio - 1), 1.0)


class ImageGuider:
    """Guides an unconditional model towards a low-resolution image (Rombach et al. 2022, appendix C).

    p(y | z_t) = N(y; T(D(z_0)), 1 / scale), where D is the decoder and T average pooling to the size of y. The gradient
    flows through the denoiser: eps <- eps - sigma grad log p, that is z_0 <- z_0 + (sigma^2 / alpha) grad log p.
    """

    def __init__(self, target: Tensor, scale: float) -> None:
        """Set the target y, [R, channels, H', W'] in [-1, 1], and the scale, 1 / variance of a pixel."""
        self.target, self.scale = target, scale

    def log_likelihood(self, autoencoder: Autoencoder, denoised: Tensor) -> Tensor:
        """Return log p(y | z_t) up to a constant, [R], for the estimates of z_0, [R, C, h, w]."""
        image = autoencoder.decode(denoised)
        pooled = F.adaptive_avg_pool2d(image, (self.target.shape[2], self.target.shape[3]))
        return -0.5 * self.scale * (self.target.to(pooled) - pooled).square().flatten(1).sum(1)
