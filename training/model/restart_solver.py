"""Restart sampling: goes back to more noise and returns, which contracts the errors made on the way."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from training.model.single_step_solvers import heun_step, is_flow
from training.model.solver_table import NOISE, Level, Process, Row, Trajectory, table

INTERVAL = (0.1, 2.0)  # of sigma / alpha, between which a run restarts (Xu et al. 2023, for Stable Diffusion)
RHO = 7.0  # of the levels of a restart (Karras et al. 2022, eq. 5)


def count_restarts(steps: int) -> tuple[int, int]:
    """Return how many restarts a run of `steps` steps has and how many steps each takes, both 0 for short runs."""
    if steps < 20:
        return 0, 0
    return (1, 9) if steps < 36 else (2, steps // 4)


def restart(levels: Sequence[Level], process: Process) -> Trajectory:
    """Restart sampling (Xu et al. 2023, algorithm 1) with Heun's method, as many steps as levels were given.

    The main run takes some of the given levels, evenly. Arrived at the ratio s = sigma / alpha nearest to 0.1, noise
    leads up to the level nearest to 2, from where K restarts of R steps come back. With fewer than 20 steps this is
    Heun's method.
    """
    flow = is_flow(levels)
    steps = len(levels) - 1
    restarts, length = count_restarts(steps)
    main = [levels[round(i)] for i in np.linspace(0, steps, steps - restarts * length + 1)]

    def rows() -> Iterator[Row]:
        if not restarts:
            yield from run(main, flow=flow)
            return
        top, bottom = ends(main)
        yield from run(main[: bottom + 1], ahead=main[top], flow=flow)
        back = between(main[top], main[bottom], length, process)
        for k in range(restarts):
            yield from run(back, ahead=main[top] if k < restarts - 1 else None, flow=flow)
        yield from run(main[bottom:], flow=flow)

    return table(rows())


def ends(levels: Sequence[Level]) -> tuple[int, int]:
    """Return the numbers of the levels where restarts begin and end: those nearest to `INTERVAL` that have a ratio."""
    ratios = {i: level.sigma / level.alpha for i, level in enumerate(levels) if level.alpha > 0 and level.sigma > 0}
    low, high = INTERVAL
    bottom = min(list(ratios)[1:], key=lambda i: abs(ratios[i] - low))
    return min((i for i in ratios if i < bottom), key=lambda i: abs(ratios[i] - high)), bottom


def between(top: Level, bottom: Level, steps: int, process: Process) -> list[Level]:
    """Return the levels of a restart: evenly in (sigma / alpha)^(1 / rho)."""
    ramp = np.linspace((top.sigma / top.alpha) ** (1 / RHO), (bottom.sigma / bottom.alpha) ** (1 / RHO), steps + 1)
    return [top, *map(process.level_at_ratio, ramp[1:-1] ** RHO), bottom]


def run(levels: Sequence[Level], *, flow: bool, ahead: Level | None = None) -> Iterator[Row]:
    """Yield the evaluations of Heun's method over levels. ahead: a noisier level to go to with noise in the end.

    x_ahead = u x + sqrt(sigma_ahead^2 - (u sigma)^2) noise,   u = alpha_ahead / alpha
    """
    found = [row for a, b in pairwise(levels) for row in heun_step(a, b, flow=flow)]
    if ahead is not None:
        _, A = found[-1]
        up = ahead.alpha / levels[-1].alpha
        A[0] = up * A[0] + math.sqrt(max(0.0, ahead.sigma**2 - (up * levels[-1].sigma) ** 2)) * NOISE
    yield from found
