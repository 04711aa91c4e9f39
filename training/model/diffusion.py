"""The forward process, its noise schedule and the network's prediction target.

    z_t = alpha_t z_0 + sigma_t eps

Variance preserving: alpha_t^2 = prod_{s <= t} (1 - beta_s), alpha_t^2 + sigma_t^2 = 1 (Ho et al. 2020, eq. 4).
Flow: alpha_t = 1 - s, sigma_t = s with s = (t + 1) / T, a straight line from data to noise (Liu et al. 2023, eq. 1).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from training.model.solver_table import Level

Schedule = Literal["scaled_linear", "linear", "cosine", "flow"]
Parameterisation = Literal["eps", "x0", "v", "flow"]
LEAST_TIMESTEPS = 20  # previews and requests take up to 20 steps by default
LEAST_ALPHA = 1e-12  # at the last timestep; far below it, dividing by alpha overflows


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule and parameterisation. The default betas are those of most released models.

    parameterisation: what the network predicts, see `Diffusion.target`. zero_terminal_snr: rescale the schedule so that
    the last timestep is pure noise (Lin et al. 2024, algorithm 1). Raises ValueError naming the invalid field.
    """

    schedule: Schedule = "scaled_linear"
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    timesteps: int = 1000
    parameterisation: Parameterisation = "eps"
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        for field, permitted in (("schedule", get_args(Schedule)), ("parameterisation", get_args(Parameterisation))):
            if getattr(self, field) not in permitted:
                raise ValueError(f"{field}: {getattr(self, field)!r} is not known; permitted: {', '.join(permitted)}")
        if self.timesteps < LEAST_TIMESTEPS:
            raise ValueError(f"timesteps: {self.timesteps} is not allowed; permitted: at least {LEAST_TIMESTEPS}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            given = f"{self.beta_start}, {self.beta_end}"
            raise ValueError(f"beta_start, beta_end: {given} are not allowed; permitted: 0 < start <= end < 1")
        flow = self.schedule == "flow"
        if flow != (self.parameterisation == "flow"):
            raise ValueError(
                f"parameterisation: {self.parameterisation!r} is not allowed with the schedule {self.schedule!r}; "
                f"permitted: {'flow' if flow else 'eps, x0, v'}"
            )
        if self.zero_terminal_snr and flow:
            raise ValueError("zero_terminal_snr: true is not allowed with the schedule 'flow', whose end is pure noise")
        if self.zero_terminal_snr and self.parameterisation == "eps":
            raise ValueError(
                "parameterisation: 'eps' is not allowed with zero_terminal_snr, because the noise of pure noise "
                "says nothing about the data; permitted: v, x0"
            )
        if not flow and math.sqrt(torch.prod(1 - betas(self)).item()) < LEAST_ALPHA:
            given = f"{self.beta_start}, {self.beta_end}"
            raise ValueError(
                f"beta_start, beta_end: {given} are not allowed with {self.timesteps} timesteps, because nothing of "
                "the data is left long before the last one; permitted: smaller ones"
            )

    @property
    def ends_in_pure_noise(self) -> bool:
        """Whether the last timestep has alpha 0: nothing of the data is left."""
        return self.zero_terminal_snr or self.schedule == "flow"


def alpha_sigma_tables(config: DiffusionConfig) -> tuple[Tensor, Tensor]:
    """Return alpha_t and sigma_t for t = 0 ... T - 1: float64 [T] each."""
    if config.schedule == "flow":
        s = torch.arange(1, config.timesteps + 1, dtype=torch.float64) / config.timesteps
        return 1 - s, s
    alpha = torch.cumprod(1 - betas(config), dim=0).sqrt()
    if config.zero_terminal_snr:  # shift the end to 0, then scale the start back
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return alpha, (1 - alpha**2).sqrt()


def betas(config: DiffusionConfig) -> Tensor:
    """Return beta_t for t = 0 ... T - 1: float64 [T].

    "scaled_linear" is linear in sqrt(beta); the authors' code calls it "linear".
    """
    T = config.timesteps
    match config.schedule:
        case "linear":
            return torch.linspace(config.beta_start, config.beta_end, T, dtype=torch.float64)
        case "cosine":  # Nichol & Dhariwal 2021, eq. 17
            f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2) ** 2
            return (1 - f[1:] / f[:-1]).clamp(max=0.999)
        case _:
            return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, T, dtype=torch.float64) ** 2


class Diffusion:
    """The levels alpha_t and sigma_t of every timestep, and the algebra between z_0, eps and the network's output.

    Every method takes one timestep per row. Between two integer timesteps log(sigma / alpha) is linear in t, and alpha
    and sigma follow from it, so that a noise level and its t always agree.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.alpha, self.sigma = alpha_sigma_tables(config)  # [T] each, float64
        self._log_ratio = self.sigma.log() - self.alpha.log()  # increasing; +inf at pure noise
        self._known = self._log_ratio[self._log_ratio.isfinite()].numpy()
        alphas_and_sigmas = zip(self.alpha.tolist(), self.sigma.tolist(), strict=True)
        self._levels = [Level(float(t), alpha, sigma) for t, (alpha, sigma) in enumerate(alphas_and_sigmas)]
        self._tables: dict[torch.device, Tensor] = {}

    @property
    def timesteps(self) -> int:
        """The number of timesteps."""
        return self.config.timesteps

    @property
    def noisiest_timestep(self) -> int:
        """The last timestep with alpha above 0."""
        return len(self._known) - 1

    def noise_to_signal(self, t: float) -> float:
        """Return sigma / alpha at t, which may be fractional, from 0 to `noisiest_timestep`."""
        return float(np.exp(np.interp(t, np.arange(len(self._known)), self._known)))

    def level(self, t: int) -> Level:
        """Return the noise level of an integer timestep, for the solvers."""
        return self._levels[t]

    def level_at_ratio(self, ratio: float) -> Level:
        """Return the noise level at which sigma / alpha is `ratio`; its t is fractional."""
        t = float(np.interp(np.log(ratio), self._known, np.arange(len(self._known))))
        alpha, sigma = self.alpha_sigma(torch.tensor([t], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
        return Level(t, float(alpha), float(sigma))

    def diffuse(self, z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Sample q(z_t | z_0) with the given noise: z0, eps [R, ...], t [R] -> z_t [R, ...]."""
        alpha, sigma = self.alpha_sigma(t, z0)
        return alpha * z0 + sigma * eps

    def target(self, z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return what the network should predict, from z0, eps [R, ...] and t [R]: [R, ...].

        That is eps, z_0, v = alpha eps - sigma z_0 (Salimans & Ho 2022, section 4), or eps - z_0 for flow.
        """
        alpha, sigma = self.alpha_sigma(t, z0)
        match self.config.parameterisation:
            case "eps":
                return eps
            case "x0":
                return z0
            case "v":
                return alpha * eps - sigma * z0
            case "flow":
                return eps - z0

    def denoise(self, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of z_0 that the network's output at z_t implies: all [R, ...], t [R]."""
        return self.denoise_at(z_t, output, *self.alpha_sigma(t, z_t))

    def denoise_at(self, z_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what `denoise` does, given alpha_t and sigma_t, [R, 1, ...] each."""
        match self.config.parameterisation:
            case "eps":
                return (z_t - sigma * output) / alpha
            case "x0":
                return output
            case "v":
                return alpha * z_t - sigma * output
            case "flow":
                return z_t - sigma * output

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """Return alpha^2 / sigma^2 of each row: t [R] -> float32 [R]."""
        alpha, sigma = self.alpha_sigma(t, torch.zeros(1, device=t.device))
        return (alpha / sigma).square()

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t, [R, 1, ...] with the dimensions and dtype of `like`; t [R] may be fractional."""
        if t.device not in self._tables:
            self._tables[t.device] = torch.stack([self.alpha, self.sigma, self._log_ratio]).to(t.device)
        alpha, sigma, log_ratio = self._tables[t.device]
        shape = (-1, *[1] * (like.dim() - 1))
        below = t.long()
        if not t.is_floating_point():
            return alpha[below].to(like).reshape(shape), sigma[below].to(like).reshape(shape)
        share = t.double() - below
        above = (below + 1).clamp(max=len(alpha) - 1)
        log_ratio = log_ratio[below] + share * (log_ratio[above] - log_ratio[below])
        p = 1 if self.config.schedule == "flow" else 2  # alpha^p + sigma^p = 1
        between = share > 0  # integer timesteps use the tables' values
        a = torch.where(between, torch.sigmoid(-p * log_ratio) ** (1 / p), alpha[below])
        s = torch.where(between, torch.sigmoid(p * log_ratio) ** (1 / p), sigma[below])
        return a.to(like).reshape(shape), s.to(like).reshape(shape)
