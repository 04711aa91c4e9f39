"""The forward process, its noise schedule and what the network is asked to predict.

    z_t = alpha_t z_0 + sigma_t eps,    alpha_t^2 = prod_{s <= t} (1 - beta_s),    alpha_t^2 + sigma_t^2 = 1

Ho et al. 2020, eq. 4; the schedule of Rombach et al. 2022.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.model.solvers import Level

Parameterisation = Literal["eps", "x0", "v"]


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule and parameterisation. The betas are those of most released models."""

    schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    timesteps: int = 1000
    parameterisation: Parameterisation = "eps"


def betas(config: DiffusionConfig) -> Tensor:
    """[T] in float64. "scaled_linear" is linear in sqrt(beta), as in the authors' code (which calls it linear)."""
    if config.schedule == "linear":
        return torch.linspace(config.beta_start, config.beta_end, config.timesteps, dtype=torch.float64)
    return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.timesteps, dtype=torch.float64) ** 2


class Diffusion:
    """alpha_t and sigma_t for every timestep, and the algebra between z_0, eps and the network's answer.

    Rows are independent: every function takes one timestep per row.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        alpha_squared = torch.cumprod(1 - betas(config), dim=0)
        self.alpha = alpha_squared.sqrt()  # [T], float64
        self.sigma = (1 - alpha_squared).sqrt()

    def level(self, t: int) -> Level:
        """The noise level of timestep t, for the solvers."""
        return Level(float(t), float(self.alpha[t]), float(self.sigma[t]))

    def diffuse(self, z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """q(z_t | z_0): z0, eps [R, ...], t [R] -> z_t [R, ...]."""
        alpha, sigma = self._at(t, z0)
        return alpha * z0 + sigma * eps

    def target(self, z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should answer: eps, z_0, or v = alpha eps - sigma z_0 (Salimans & Ho 2022)."""
        alpha, sigma = self._at(t, z0)
        match self.config.parameterisation:
            case "eps":
                return eps
            case "x0":
                return z0
            case "v":
                return alpha * eps - sigma * z0

    def denoised(self, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The estimate of z_0 that the network's answer amounts to: all [R, ...], t [R]."""
        alpha, sigma = self._at(t, z_t)
        match self.config.parameterisation:
            case "eps":
                return (z_t - sigma * output) / alpha
            case "x0":
                return output
            case "v":
                return alpha * z_t - sigma * output

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """alpha^2 / sigma^2 of each row: [R] -> [R], float32."""
        return (self.alpha[t.cpu()] / self.sigma[t.cpu()]).square().float().to(t.device)

    def _at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        index = t.long().cpu()
        shape = (-1, *[1] * (like.dim() - 1))
        return tuple(table[index].to(like).reshape(shape) for table in (self.alpha, self.sigma))  # type: ignore[return-value]
