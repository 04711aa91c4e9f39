"""Samplers of models that were distilled to few steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from training.model.solver_table import (
    DENOISED,
    NOISE,
    Level,
    Process,
    Row,
    Trajectory,
    X,
    eps,
    evaluation,
    table,
    towards,
)

DATA_STD = 0.5  # of the boundary condition of consistency models, as published
TIME_SCALE = 10.0
GAMMA = 0.3  # of TCD, its authors' default


def lcm(levels: Sequence[Level]) -> Trajectory:
    """Latent consistency models (Luo et al. 2023, algorithm 3): estimate z_0, then add noise up to the next level.

    z_0 = c_out D + c_skip x,   c_skip = d^2 / (d^2 + (10 t)^2),   c_out = 10 t / sqrt(d^2 + (10 t)^2),   d = 0.5
    """

    def rows() -> Iterator[Row]:
        for i, (a, b) in enumerate(pairwise(levels)):
            scaled = TIME_SCALE * a.t
            total = scaled**2 + DATA_STD**2
            estimate = scaled / math.sqrt(total) * DENOISED + DATA_STD**2 / total * X
            last = i == len(levels) - 2
            yield evaluation(a, x=estimate if last else b.alpha * estimate + b.sigma * NOISE)

    return table(rows())


def tcd(levels: Sequence[Level], process: Process) -> Trajectory:
    """Trajectory consistency distillation (Zheng et al. 2024, algorithm 4), with gamma 0.3.

    A step goes to timestep s = floor((1 - gamma) t_b), and noise then leads up to level b:

        x_s = alpha_s D + sigma_s eps,   x_b = alpha_b / alpha_s x_s + sqrt(sigma_b^2 - (alpha_b / alpha_s sigma_s)^2) n
    """

    def rows() -> Iterator[Row]:
        for a, b in pairwise(levels):
            if b.sigma == 0:
                yield evaluation(a, x=towards(X, DENOISED, a, b))
                continue
            s = process.level(math.floor((1 - GAMMA) * b.t))
            up = b.alpha / s.alpha
            n = math.sqrt(max(0.0, b.sigma**2 - (up * s.sigma) ** 2))
            yield evaluation(a, x=up * (s.alpha * DENOISED + s.sigma * eps(a)) + n * NOISE)

    return table(rows())


def shortcut(levels: Sequence[Level], process: Process) -> Trajectory:
    """Shortcut models (Frans et al. 2024, algorithm 2): straight to the level whose distance is an input of the model.

    x_b = alpha_b D(x, a, b) + sigma_b / sigma_a (x - alpha_a D(x, a, b)), D the answer for the whole step from a to b

    For a model that was not distilled this is DDIM. The data lie one timestep below the first.
    """
    ends = [-1.0 if b.sigma == 0 else b.t for b in levels[1:]]
    shares = [(a.t - end) / process.timesteps for a, end in zip(levels[:-1], ends, strict=True)]
    straight = table(evaluation(a, x=towards(X, DENOISED, a, b)) for a, b in pairwise(levels))
    return replace(straight, step=np.array(shares))


# For models with the step as an input, see `number_embedding`; the others are in `solvers.SOLVERS`.
DISTILLED_SOLVERS: dict[str, Callable[[Sequence[Level], Process], Trajectory]] = {"shortcut": shortcut}
