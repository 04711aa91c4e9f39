"""Every sampler is a sequence of small matrices.

A row's sampling state is five latents [x, kept, h1, h2, h3]. Everything a sampler does between two network
evaluations is linear in them, in the network's answer and in fresh noise:

    state <- A[i] @ [x, kept, h1, h2, h3, denoised, noise]          A[i]: 5 x 7, computed in float64

`x` is what the network sees next, `kept` the start of a multi-stage step, h1..h3 earlier answers, newest first.
A builder is the paper's update written on the seven unit vectors; it never touches a tensor. So rows with
different solvers and step counts share one batch, and one fused product-and-sum steps them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vector = NDArray[np.float64]
X, KEPT, H1, H2, H3, DENOISED, NOISE = np.eye(7)


class Level(NamedTuple):
    """One noise level: z = alpha z_0 + sigma eps."""

    t: float  # what the network is told
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma); +inf at the data."""
        with np.errstate(divide="ignore"):
            return float(np.log(self.alpha) - np.log(self.sigma))


DATA = Level(0.0, 1.0, 0.0)  # where every trajectory ends


@dataclass(frozen=True)
class Trajectory:
    """The whole sampling run of one row: E network evaluations."""

    t: Vector  # [E], the timestep of each evaluation
    A: NDArray[np.float64]  # [E, 5, 7]

    def __len__(self) -> int:
        return len(self.t)

    def noisy(self, i: int) -> bool:
        """Whether evaluation i takes fresh noise."""
        return bool(self.A[i, :, 6].any())


# -- the two updates everything is made of -----------------------------------------------------


def noise_std(a: Level, b: Level, eta: float) -> float:
    """Song et al. 2021, eq. 16: eta 1 is the posterior of the forward process."""
    return float(eta * b.sigma * np.sqrt(max(0.0, 1 - (a.alpha * b.sigma / (a.sigma * b.alpha)) ** 2)))


def towards(a: Level, b: Level, eta: float = 0.0) -> Vector:
    """Song et al. 2021, eq. 12, with eps = (x - alpha_a D) / sigma_a.

    x_b = alpha_b D + sqrt(sigma_b^2 - n^2) eps + n noise
    """
    n = noise_std(a, b, eta)
    keep = float(np.sqrt(b.sigma**2 - n**2)) / a.sigma
    return keep * X + (b.alpha - a.alpha * keep) * DENOISED + n * NOISE


def second_order(before: Level, a: Level, b: Level) -> Vector:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: towards b along D + (h / 2 h_before) (D - D_before)."""
    h, h_before = b.half_log_snr - a.half_log_snr, a.half_log_snr - before.half_log_snr
    answer = DENOISED + h / (2 * h_before) * (DENOISED - H1)
    return b.sigma / a.sigma * X - b.alpha * float(np.expm1(-h)) * answer


# -- builders: noise levels in, a trajectory out -----------------------------------------------


def evaluation(x: Vector) -> NDArray[np.float64]:
    """One matrix: the next x; the answer enters the history."""
    return np.stack([x, KEPT, DENOISED, H1, H2])


def table(levels: Sequence[Level], rows: Sequence[Vector]) -> Trajectory:
    """The trajectory that evaluates at each level but the last."""
    return Trajectory(np.array([level.t for level in levels[:-1]]), np.stack([evaluation(x) for x in rows]))


def ddim(levels: Sequence[Level], eta: float = 0.0) -> Trajectory:
    """DDIM (Song et al. 2021); eta 0 is deterministic."""
    return table(levels, [towards(a, b, eta) for a, b in pairwise(levels)])


def ddpm(levels: Sequence[Level]) -> Trajectory:
    """Ancestral sampling (Ho et al. 2020), which is DDIM with eta 1."""
    return ddim(levels, eta=1.0)


def dpm_solver_2m(levels: Sequence[Level]) -> Trajectory:
    """DPM-Solver++(2M): second order from the second step on, first order into the data, where lambda is infinite."""
    rows = [
        towards(a, b) if i == 0 or b.sigma == 0 else second_order(levels[i - 1], a, b)
        for i, (a, b) in enumerate(pairwise(levels))
    ]
    return table(levels, rows)


SOLVERS: dict[str, Callable[[Sequence[Level]], Trajectory]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpm_solver_2m": dpm_solver_2m,
}


def trailing(steps: int, timesteps: int) -> list[int]:
    """Exactly `steps` timesteps, evenly spaced, from the last one down (Lin et al. 2024, "trailing").

    Raises ValueError unless 1 <= steps <= timesteps.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps: {steps} is not allowed; permitted: an integer from 1 to {timesteps}")
    return [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]


# -- running -----------------------------------------------------------------------------------


def step(state: Tensor, denoised: Tensor, noise: Tensor, A: Tensor) -> Tensor:
    """state [R, 5, ...], denoised [R, ...], noise [R, ...], A [R, 5, 7] -> state [R, 5, ...].

    A product and a sum, not a matrix product: no TF32, and a row's result is the same for any R.
    """
    basis = torch.cat([state, denoised[:, None], noise[:, None]], dim=1)  # [R, 7, ...]
    weights = A.to(basis).reshape(*A.shape, *[1] * (basis.dim() - 2))  # [R, 5, 7, 1, ...]
    return (weights * basis[:, None]).sum(dim=2)


def seeded_noise(seed: int, index: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise as a function of (seed, index) alone: float32 of `shape`, on the CPU.

    A counter-based generator (Salmon et al. 2011): no state, so a batch's other rows never matter.
    index 0 is the start of a run, index i + 1 the noise of evaluation i; seed in [0, 2^63).
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, index]))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
