"""Spacings: the N + 1 noise levels of a sampling run of N steps, from noise to data."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from training.model.solvers import DATA, Level

if TYPE_CHECKING:  # loading it would load torch, which a process that only needs the names may lack
    from training.model.diffusion import Diffusion

# The ten timesteps that Sabour et al. 2024 (Align Your Steps) fitted for Stable Diffusion 1.5, and the end of the last
ALIGNED = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]
RHO = 7.0  # Karras et al. 2022, eq. 5


def leading(diffusion: "Diffusion", steps: int) -> list[Level]:
    """t_i = i floor(T / N) + 1, ending at the level of t = 0, as the released models are sampled (Song et al. 2021)."""
    T = diffusion.config.timesteps
    offset = min(1, T - 1 - (steps - 1) * (T // steps))  # with N = T there is no timestep above to shift to
    timesteps = [i * (T // steps) + offset for i in reversed(range(steps))]
    return [*map(diffusion.level, timesteps), diffusion.level(0) if offset else DATA]


def trailing(diffusion: "Diffusion", steps: int) -> list[Level]:
    """t_i = T - i T / N - 1: evenly from the last timestep down (Lin et al. 2024, table 2)."""
    T = diffusion.config.timesteps
    return [*(diffusion.level(round(T - i * T / steps) - 1) for i in range(steps)), DATA]


def linspace(diffusion: "Diffusion", steps: int) -> list[Level]:
    """Evenly from the last timestep to the first, both included; a single step starts at the last."""
    timesteps = np.linspace(diffusion.config.timesteps - 1, 0, steps).round()
    return [*(diffusion.level(int(t)) for t in timesteps), DATA]


def karras(diffusion: "Diffusion", steps: int) -> list[Level]:
    """Evenly in (sigma / alpha)^(1 / rho) over the range of the schedule (Karras et al. 2022, eq. 5)."""
    high, low = (diffusion.noise_to_signal(t) for t in (diffusion.noisiest_timestep, 0))
    ramp = np.linspace(high ** (1 / RHO), low ** (1 / RHO), steps)
    return [*map(diffusion.level_at_ratio, ramp**RHO), DATA]


def ays(diffusion: "Diffusion", steps: int) -> list[Level]:
    """The aligned steps; other counts interpolate log-linearly in sigma / alpha (Sabour et al. 2024, section 4).

    As published, interpolation includes the eleventh level, which the data then replace.
    """
    logs = [np.log(diffusion.noise_to_signal(t / ALIGNED[0] * diffusion.noisiest_timestep)) for t in ALIGNED]
    at = np.linspace(0, len(logs) - 1, steps + 1)[:-1]
    return [*map(diffusion.level_at_ratio, np.exp(np.interp(at, np.arange(len(logs)), logs))), DATA]


SPACINGS: "dict[str, Callable[[Diffusion, int], list[Level]]]" = {
    "ays": ays,
    "karras": karras,
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
}


def levels(diffusion: "Diffusion", steps: int, spacing: str) -> list[Level]:
    """Return the N + 1 noise levels of exactly N = `steps` steps. Raises ValueError naming what is permitted."""
    if spacing not in SPACINGS:
        raise ValueError(f"spacing: {spacing!r} is not known; permitted: {', '.join(sorted(SPACINGS))}")
    if not 1 <= steps <= diffusion.config.timesteps:
        limit = diffusion.config.timesteps
        raise ValueError(f"steps: {steps} is not allowed; permitted: an integer from 1 to {limit}")
    return SPACINGS[spacing](diffusion, steps)
