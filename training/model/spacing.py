"""Spacings: the noise levels of a sampling run of N steps, from noise to data."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from training.model.solver_table import DATA, Level, Vector
from training.model.solvers import count_steps

if TYPE_CHECKING:  # loading it would load torch, which a process that only needs the names may lack
    from training.model.diffusion import Diffusion

# The ten timesteps that Sabour et al. 2024 (Align Your Steps) fitted for Stable Diffusion 1.5, and the end of the last
ALIGNED = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]
RHO = 7.0  # Karras et al. 2022, eq. 5


def leading(diffusion: "Diffusion", steps: int) -> list[Level]:
    """t_i = i floor(T / N) + 1 below T, ending at the level of t = 0, as by the authors' code (Song et al. 2021).

    Where N does not divide T these are more than N steps, see `solvers.count_steps`.
    """
    T = diffusion.config.timesteps
    return spaced_by(diffusion, T // steps, count_steps("leading", steps, T))


def leading_exact(diffusion: "Diffusion", steps: int) -> list[Level]:
    """t_i = i floor(T / N) + 1 for i < N: the steps of `leading`, and exactly N of them as in diffusers."""
    return spaced_by(diffusion, diffusion.config.timesteps // steps, steps)


def spaced_by(diffusion: "Diffusion", stride: int, steps: int) -> list[Level]:
    """Return the levels of t = i stride + 1 from i = steps - 1 down, and that of t = 0."""
    T = diffusion.config.timesteps
    offset = min(1, T - 1 - (steps - 1) * stride)  # with N = T there is no timestep above to shift to
    timesteps = [i * stride + offset for i in reversed(range(steps))]
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


SHIFT = 3.0  # of Stable Diffusion 3
BETA = 0.6  # both parameters of the distribution, as by Lee et al. 2024


def noise_range(diffusion: "Diffusion") -> tuple[float, float]:
    """Return the largest and the smallest sigma / alpha of a schedule; for flow of sigma, which ends in pure noise."""
    if diffusion.config.schedule == "flow":
        return 1.0, 1 / diffusion.config.timesteps
    return diffusion.noise_to_signal(diffusion.noisiest_timestep), diffusion.noise_to_signal(0)


def at_noise(diffusion: "Diffusion", noise: Vector) -> list[Level]:
    """Return the levels at which sigma / alpha, or for flow sigma, has these values, and the data."""
    if diffusion.config.schedule != "flow":
        return [*map(diffusion.level_at_ratio, noise), DATA]
    T = diffusion.config.timesteps

    def level(s: float) -> Level:
        if s > (T - 1) / T:  # up to pure noise, where sigma / alpha does not tell levels apart
            return Level(T * s - 1, 1 - s, s)
        return diffusion.level_at_ratio(s / (1 - s))

    return [*map(level, noise.tolist()), DATA]


def sigma_uniform(diffusion: "Diffusion", steps: int) -> list[Level]:
    """Evenly in sigma / alpha, or for flow in sigma."""
    high, low = noise_range(diffusion)
    return at_noise(diffusion, np.linspace(high, low, steps))


def exponential(diffusion: "Diffusion", steps: int) -> list[Level]:
    """Evenly in log(sigma / alpha), or for flow in log(sigma)."""
    high, low = noise_range(diffusion)
    return at_noise(diffusion, high * (low / high) ** np.linspace(0, 1, steps))


def beta(diffusion: "Diffusion", steps: int) -> list[Level]:
    """At quantiles of the Beta(0.6, 0.6) distribution of sigma: denser at both ends (Lee et al. 2024, section 4)."""
    high, low = noise_range(diffusion)
    return at_noise(diffusion, low + (high - low) * beta_quantiles(np.linspace(1, 0, steps)))


def beta_quantiles(shares: Vector) -> Vector:
    """Return the quantiles of Beta(BETA, BETA), to about 1e-8.

    Below the median y = x^BETA makes the density smooth; it is integrated from 0, and the other half is symmetric.
    """
    edges = np.linspace(0, 0.5**BETA, 4001)
    middles = (edges[1:] + edges[:-1]) / 2
    cumulative = np.concatenate([[0.0], np.cumsum((1 - middles ** (1 / BETA)) ** (BETA - 1))])
    lower = np.minimum(shares, 1 - shares)
    x = np.interp(lower, 0.5 * cumulative / cumulative[-1], edges) ** (1 / BETA)
    return np.where(shares <= 0.5, x, 1 - x)


def shifted(diffusion: "Diffusion", steps: int) -> list[Level]:
    """Trailing timesteps, moved towards noise: s = (t + 1) / T becomes 3 s / (1 + 2 s) (Esser et al. 2024, eq. 23)."""
    s = 1 - np.arange(steps) / steps
    s = SHIFT * s / (1 + (SHIFT - 1) * s)
    if diffusion.config.schedule == "flow":
        return at_noise(diffusion, s)
    noisy = diffusion.noisiest_timestep + 1  # timesteps with a ratio; pure noise has none
    pure = [diffusion.level(noisy)] if noisy < diffusion.config.timesteps else []
    at = noisy * s[len(pure) :] - 1
    return [*pure, *(diffusion.level_at_ratio(diffusion.noise_to_signal(t)) for t in at), DATA]


DISTILLED_STEPS = 50  # of the teacher's DDIM run, with which latent consistency models were distilled


def lcm(diffusion: "Diffusion", steps: int) -> list[Level]:
    """Timesteps of the run that latent consistency models were distilled with: t_k = k floor(T / 50) - 1.

    N of them, at the places floor(50 i / N) from the noisiest down (Luo et al. 2023, section 4.3). More than 50 steps
    take a finer run.
    """
    T = diffusion.config.timesteps
    run = max(steps, min(DISTILLED_STEPS, T))
    return [*(diffusion.level(T // run * (run - run * i // steps) - 1) for i in range(steps)), DATA]


SPACINGS: "dict[str, Callable[[Diffusion, int], list[Level]]]" = {
    "ays": ays,
    "beta": beta,
    "exponential": exponential,
    "karras": karras,
    "lcm": lcm,
    "leading": leading,
    "leading_exact": leading_exact,
    "linspace": linspace,
    "shifted": shifted,
    "sigma_uniform": sigma_uniform,
    "trailing": trailing,
}


def levels(diffusion: "Diffusion", steps: int, spacing: str) -> list[Level]:
    """Return the noise levels of N = `steps` steps, one more than `count_steps`. Raises ValueError naming a mistake."""
    if spacing not in SPACINGS:
        raise ValueError(f"spacing: {spacing!r} is not known; permitted: {', '.join(sorted(SPACINGS))}")
    if not 1 <= steps <= diffusion.config.timesteps:
        limit = diffusion.config.timesteps
        raise ValueError(f"steps: {steps} is not allowed; permitted: an integer from 1 to {limit}")
    return SPACINGS[spacing](diffusion, steps)
