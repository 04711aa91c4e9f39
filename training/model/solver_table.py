"""The tables of samplers: every sampler is a sequence of small matrices.

A row's sampling state is five latents [x, kept, h1, h2, h3]. Everything that a sampler does between two network
evaluations is linear in them, in the network's answer and in fresh noise:

    state <- A[i] @ [x, kept, h1, h2, h3, denoised, noise]          A[i]: 5 x 7, computed in float64

`x` is the network's next input, `kept` the start of a step of several evaluations, and h1..h3 are earlier answers in
the solver's own space (denoised, or eps), newest first. A builder writes the paper's update on the seven unit vectors
and never touches a tensor. So rows with different solvers and step counts share one batch, and one
product-and-sum (`solver_step.advance`) steps them all. Nothing assumes alpha^2 + sigma^2 = 1, so flow matching works
too. This module needs numpy alone, so a process without torch can count a run's network evaluations.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
X, KEPT, H1, H2, H3, DENOISED, NOISE = np.eye(7)
PAST = (H1, H2, H3)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)  # of the integrals over a step, from -1 to 1


class Level(NamedTuple):
    """One noise level: z = alpha z_0 + sigma eps."""

    t: float  # the timestep given to the network; some spacings make it fractional
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma): +inf at the data, -inf in pure noise."""
        if self.alpha > 0 and self.sigma > 0:  # whose logarithms need no care, which takes longer than they do
            return float(np.log(self.alpha) - np.log(self.sigma))
        with np.errstate(divide="ignore"):
            return float(np.log(self.alpha) - np.log(self.sigma))


DATA = Level(0.0, 1.0, 0.0)


class Process(Protocol):
    """Where solvers look up levels between those of a spacing; `diffusion.Diffusion` is one."""

    @property
    def timesteps(self) -> int:
        """The number of timesteps of the schedule."""

    def level(self, t: int) -> Level:
        """Return the noise level of a timestep."""

    def level_at_ratio(self, ratio: float) -> Level:
        """Return the noise level at which sigma / alpha is `ratio`."""


@dataclass(frozen=True)
class Trajectory:
    """The sampling run of one row: E network evaluations."""

    t: Vector  # [E], the timestep of each evaluation
    alpha: Vector  # [E], its level
    sigma: Vector  # [E]
    A: NDArray[np.float64]  # [E, 5, 7]
    step: Vector | None = None  # [E], the share of the schedule to the next evaluation; for distilled models alone

    def __len__(self) -> int:
        return len(self.t)

    @cached_property
    def noisy(self) -> list[bool]:
        """Whether fresh noise is added after each evaluation."""
        return [bool(A[:, 6].any()) for A in self.A]


Row = tuple[Level, NDArray[np.float64]]  # an evaluation's level and matrix
Answer = Callable[[Level], Vector]  # the network's answer in a solver's space


def denoised(at: Level) -> Vector:
    """Return D, the estimate of z_0."""
    return DENOISED


def eps(at: Level) -> Vector:
    """Return the noise that D implies: eps = (x - alpha D) / sigma."""
    return (X - at.alpha * DENOISED) / at.sigma


def velocity(at: Level) -> Vector:
    """Return the flow's direction that D implies, where alpha + sigma = 1: eps - D = (x - D) / sigma."""
    return (X - DENOISED) / at.sigma


def evaluation(at: Level, x: Vector, kept: Vector = KEPT, push: Vector | None = None) -> Row:
    """Evaluate at a level, then move to x. `push` enters the history; without it the history stays."""
    past = (H1, H2, H3) if push is None else (push, H1, H2)
    return at, np.stack([x, kept, *past])


def table(rows: Iterable[Row]) -> Trajectory:
    """Make a trajectory of its evaluations."""
    levels, A = zip(*rows, strict=True)
    t, alpha, sigma = np.array(levels, np.float64).T
    return Trajectory(t, alpha, sigma, np.stack(A))


# -- one answer: along a straight line ----------------------------------------------------------


def noise_std(a: Level, b: Level, eta: float) -> float:
    """Return the standard deviation of the noise of a step (Song et al. 2021, eq. 16); eta 1 is ancestral."""
    return float(eta * b.sigma * np.sqrt(max(0.0, 1 - (a.alpha * b.sigma / (a.sigma * b.alpha)) ** 2)))


def towards(x: Vector, D: Vector, a: Level, b: Level, eta: float = 0.0) -> Vector:
    """Step from level a to b (Song et al. 2021, eq. 12); finite at alpha_a = 0 and at sigma_b = 0.

    x_b = alpha_b D + sqrt(sigma_b^2 - n^2) eps + n noise,  n = noise_std
    """
    n = noise_std(a, b, eta)
    keep = float(np.sqrt(b.sigma**2 - n**2)) / a.sigma
    return keep * x + (b.alpha - a.alpha * keep) * D + n * NOISE


def along(x: Vector, e: Vector, a: Level, b: Level) -> Vector:
    """Step from level a to b along a given eps: x / alpha moves by the change of sigma / alpha, for alpha_a > 0."""
    return b.alpha * (x / a.alpha + (b.sigma / b.alpha - a.sigma / a.alpha) * e)
