"""Linear multistep methods in sigma / alpha: PLMS on equal steps, LMS on any."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from training.model.solver_table import (
    DENOISED,
    H1,
    KEPT,
    NODES,
    PAST,
    WEIGHTS,
    Level,
    Row,
    Trajectory,
    X,
    along,
    eps,
    evaluation,
    table,
    towards,
)

# Adams and Bashforth 1883, on equal steps, newest answer first
ADAMS_BASHFORTH = [(1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)]


def plms(levels: Sequence[Level]) -> Trajectory:
    """Pseudo linear multistep (Liu et al. 2022, eq. 12), as released with latent diffusion.

    eps' combines the last four answers by Adams-Bashforth, and a DDIM step follows it. The first step is a pseudo
    improved Euler step, whose second answer does not enter the history.
    """

    def rows() -> Iterator[Row]:
        for i, (a, b) in enumerate(pairwise(levels)):
            if i == 0:
                yield evaluation(a, x=towards(X, DENOISED, a, b), kept=X, push=eps(a))
                again = b if len(levels) > 2 else a  # a run of one step evaluates its only level again, as released
                if a.alpha > 0 and b.sigma > 0:
                    yield evaluation(again, x=along(KEPT, (H1 + eps(again)) / 2, a, b))
            else:
                e = sum((w * v for w, v in zip(ADAMS_BASHFORTH[min(i, 3)], (eps(a), *PAST), strict=False)), 0 * X)
                yield evaluation(a, x=along(X, e, a, b), push=eps(a))

    return table(rows())


def lms(levels: Sequence[Level]) -> Trajectory:
    """Linear multistep of fourth order in sigma / alpha, as by K. Crowson's k-diffusion: eps interpolated exactly.

    x_b / alpha_b = x / alpha_a + sum_j eps_j int l_j(s) ds,   l_j the Lagrange polynomials of the last four levels
    """

    def rows() -> Iterator[Row]:
        for i, (a, b) in enumerate(pairwise(levels)):
            if a.alpha == 0:
                yield evaluation(a, x=towards(X, DENOISED, a, b), push=eps(a))
                continue
            past = zip(levels[i::-1], (eps(a), *PAST), strict=False)
            known = [(at.sigma / at.alpha, e) for at, e in past if at.alpha > 0]
            start, end = known[0][0], b.sigma / b.alpha
            points = start + (NODES + 1) / 2 * (end - start)
            change = 0 * X
            for j, (node, e) in enumerate(known):
                others = [other for k, (other, _) in enumerate(known) if k != j]
                polynomial = np.prod([(points - other) / (node - other) for other in others], axis=0)
                change = change + float(np.sum(WEIGHTS * polynomial)) / 2 * (end - start) * e
            yield evaluation(a, x=b.alpha * (X / a.alpha + change), push=eps(a))

    return table(rows())
