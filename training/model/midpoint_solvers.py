"""Solvers that evaluate twice a step, at its start and in its middle in log(sigma / alpha), as in k-diffusion.

The middle is a level of the process that no spacing has, so these builders look it up. A step to the data or from pure
noise has no middle and evaluates once.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from training.model.solver_table import (
    DENOISED,
    H1,
    KEPT,
    NOISE,
    Level,
    Process,
    Row,
    Trajectory,
    X,
    along,
    eps,
    evaluation,
    noise_std,
    table,
    towards,
)


def middle(a: Level, b: float, process: Process) -> Level:
    """Return the level between level a and the ratio b = sigma / alpha, at the geometric mean of their ratios."""
    return process.level_at_ratio(math.sqrt(a.sigma / a.alpha * b))


def has_middle(a: Level, b: Level) -> bool:
    """Return whether a step is neither to the data nor from pure noise."""
    return a.alpha > 0 and b.sigma > 0


def dpm2(levels: Sequence[Level], process: Process) -> Trajectory:
    """DPM-Solver-2 (Lu et al. 2022, algorithm 1; Karras et al. 2022, appendix C.2): the midpoint method."""

    def rows() -> Iterator[Row]:
        for a, b in pairwise(levels):
            if not has_middle(a, b):
                yield evaluation(a, x=towards(X, DENOISED, a, b))
                continue
            m = middle(a, b.sigma / b.alpha, process)
            yield evaluation(a, x=along(X, eps(a), a, m), kept=X)
            yield evaluation(m, x=along(KEPT, eps(m), a, b))

    return table(rows())


def dpm2_ancestral(levels: Sequence[Level], process: Process) -> Trajectory:
    """DPM-Solver-2 with ancestral noise: a step to a lower ratio s_down, then noise up to that of level b.

    s_up = s_b sqrt(1 - s_b^2 / s_a^2),   s_down^2 = s_b^2 - s_up^2,   s = sigma / alpha
    """

    def rows() -> Iterator[Row]:
        for a, b in pairwise(levels):
            if not has_middle(a, b):
                yield evaluation(a, x=towards(X, DENOISED, a, b, 1.0))
                continue
            start, up = a.sigma / a.alpha, noise_std(a, b, 1.0) / b.alpha
            down = math.sqrt((b.sigma / b.alpha) ** 2 - up**2)
            m = middle(a, down, process)
            yield evaluation(a, x=along(X, eps(a), a, m), kept=X)
            yield evaluation(m, x=b.alpha * (KEPT / a.alpha + (down - start) * eps(m) + up * NOISE))

    return table(rows())


def dpm_solver_sde(levels: Sequence[Level], process: Process) -> Trajectory:
    """SDE-DPM-Solver++ of second order with one middle (after Lu et al. 2022, eq. 18), as by k-diffusion.

    Both steps, to the middle and to level b, follow one Brownian path in sigma / alpha, so the noise of the first is a
    part of that of the second.
    """

    def rows() -> Iterator[Row]:
        for a, b in pairwise(levels):
            if not has_middle(a, b):
                yield evaluation(a, x=towards(X, DENOISED, a, b, 1.0))
                continue
            start, end = a.sigma / a.alpha, b.sigma / b.alpha
            m = middle(a, end, process)
            share = (start - m.sigma / m.alpha) / (start - end)  # of the path, until the middle
            yield evaluation(a, x=towards(X, DENOISED, a, m, 1.0), kept=X, push=NOISE)
            n = noise_std(a, b, 1.0)
            path = math.sqrt(share) * H1 + math.sqrt(1 - share) * NOISE
            yield evaluation(m, x=towards(KEPT, DENOISED, a, b, 1.0) + n * (path - NOISE))

    return table(rows())
