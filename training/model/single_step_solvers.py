"""Solvers that use no earlier answers: DDIM, ancestral sampling and Heun's method."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from training.model.solver_table import (
    DENOISED,
    H1,
    KEPT,
    Level,
    Row,
    Trajectory,
    X,
    along,
    eps,
    evaluation,
    table,
    towards,
    velocity,
)


def ddim(levels: Sequence[Level], eta: float = 0.0) -> Trajectory:
    """DDIM (Song et al. 2021, eq. 12): with eta 0 Euler's method, also for flow matching; with eta 1 ancestral."""
    return table(evaluation(a, x=towards(X, DENOISED, a, b, eta)) for a, b in pairwise(levels))


def ancestral(levels: Sequence[Level]) -> Trajectory:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) = DDIM with eta 1 = Euler-ancestral in sigma / alpha."""
    return ddim(levels, eta=1.0)


def is_flow(levels: Sequence[Level]) -> bool:
    """Return whether all levels have alpha + sigma = 1."""
    return all(abs(level.alpha + level.sigma - 1) < 1e-9 for level in levels)


def heun(levels: Sequence[Level]) -> Trajectory:
    """Heun's method (Karras et al. 2022, algorithm 1), in y = x / alpha with dy / d(sigma / alpha) = eps.

    y' = y_a + (s_b - s_a) eps_a,   y_b = y_a + (s_b - s_a) (eps_a + eps_b(y')) / 2,   s = sigma / alpha

    With flow matching the same in x and sigma, with the velocity for eps, which also holds in pure noise.
    """
    flow = is_flow(levels)
    return table(row for a, b in pairwise(levels) for row in heun_step(a, b, flow=flow))


def heun_step(a: Level, b: Level, *, flow: bool) -> Iterator[Row]:
    """Yield the evaluations of a step of Heun's method. flow: whether it is straight in x and sigma, see `heun`."""
    if flow and b.sigma > 0:
        yield evaluation(a, x=towards(X, DENOISED, a, b), kept=X, push=velocity(a))
        yield evaluation(b, x=KEPT + (b.sigma - a.sigma) * (H1 + velocity(b)) / 2)
        return
    yield evaluation(a, x=towards(X, DENOISED, a, b), kept=X, push=eps(a))
    if b.sigma > 0 and a.alpha > 0:  # a step to the data or from pure noise evaluates once
        yield evaluation(b, x=along(KEPT, (H1 + eps(b)) / 2, a, b))
