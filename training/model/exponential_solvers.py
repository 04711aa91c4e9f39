"""Exponential integrators in the half log-SNR: DPM-Solver++, DEIS, UniPC and SA-Solver."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from training.model.solver_table import (
    DENOISED,
    H1,
    H2,
    H3,
    KEPT,
    NODES,
    NOISE,
    PAST,
    WEIGHTS,
    Answer,
    Level,
    Process,
    Row,
    Trajectory,
    Vector,
    X,
    denoised,
    eps,
    evaluation,
    noise_std,
    table,
    towards,
)

SHORT_RUN = 15  # with fewer steps the order falls towards the data, as published
Moments = Callable[[float, float, int], Vector]


def exact(h: float, k: float, order: int) -> Vector:
    """Return M_m = int_0^h exp(-k (h - u)) u^m du for m < order, by Gauss-Legendre: no cancellation at small h."""
    u = (NODES + 1) * h / 2
    return np.array([np.sum(WEIGHTS * h / 2 * np.exp(-k * (h - u)) * u**m) for m in range(order)])


def midpoint(h: float, k: float, order: int) -> Vector:
    """Return the moments published for DPM-Solver++(2M) and UniPC's B_2: with two answers M_1 is h / 2 M_0."""
    M = exact(h, k, order)
    return np.array([M[0], h / 2 * M[0]]) if order == 2 else M


def half_square(h: float, k: float, order: int) -> Vector:
    """Return the moments published for SA-Solver: exact, but with two answers M_1 is h^2 / 2."""
    M = exact(h, k, order)
    return np.array([M[0], h**2 / 2]) if order == 2 else M


def published_third(h: float, k: float, order: int) -> Vector:
    """Return the moments published for DPM-Solver++(3M): with three answers M_2 is halved, which costs an order."""
    return midpoint(h, k, order) * ([1.0, 1.0, 0.5] if order == 3 else 1.0)


def halved_third(h: float, k: float, order: int) -> Vector:
    """Return the moments of k-diffusion's DPM-Solver++(3M) SDE: exact, but with three answers M_2 is halved."""
    return exact(h, k, order) * ([1.0, 1.0, 0.5] if order == 3 else 1.0)


def integrate(
    x: Vector, a: Level, b: Level, answers: Sequence[Vector], at: Sequence[Level], *, space: Answer, sde: bool,
    moments: Moments, noise: Vector = NOISE,
) -> Vector:  # fmt: skip
    """Step from level a to b by variation of constants, interpolating the answers by a polynomial in lambda.

    denoised: x_b = sigma_b / sigma_a e^{-sde h} x + (1 + sde) alpha_b int e^{-(1 + sde)(lambda_b - l)} D(l) dl + noise
    eps:      x_b = alpha_b / alpha_a x - sigma_b int e^{lambda_b - l} eps(l) dl

    Lu et al. 2022 (DPM-Solver++, eq. 8 and 18), Zhang & Chen 2023 (DEIS, eq. 15), Zhao et al. 2023 (UniPC, where b is
    among `at`). A step to or from an infinite lambda uses one answer. noise: what a stochastic step adds.
    """
    if not np.isfinite([a.half_log_snr, b.half_log_snr]).all():
        return towards(x, DENOISED, a, b, float(sde))
    known = [(level.half_log_snr - a.half_log_snr, v) for level, v in zip(at, answers, strict=False)]
    known = [(node, v) for node, v in known if np.isfinite(node)]
    h, k, order = b.half_log_snr - a.half_log_snr, (-1.0 if space is eps else 1.0 + sde), len(known)
    vandermonde = np.vander(np.array([node for node, _ in known]) / h, order, increasing=True).T
    weights = np.linalg.solve(vandermonde, moments(h, k, order) / h ** np.arange(order))
    integral = sum((w * v for w, (_, v) in zip(weights, known, strict=True)), 0 * X)
    if space is eps:
        return b.alpha / a.alpha * x - b.sigma * integral
    decay = b.sigma / a.sigma * float(np.exp(-sde * h))
    return decay * x + k * b.alpha * integral + noise_std(a, b, float(sde)) * noise


def multistep(
    levels: Sequence[Level],
    order: int,
    *,
    moments: Moments,
    space: Answer = denoised,
    sde: bool = False,
    corrector: bool = False,
    cools: bool = True,
) -> Trajectory:
    """Predict each step from up to `order` answers so far; short runs use fewer at their end (Lu et al. 2022).

    cools: whether short runs do.

    With a corrector, each evaluation first redoes the step that led to it, now that the answer at its end is known
    (Zhao et al. 2023), and every run uses fewer answers at its end.
    """
    steps = len(levels) - 1
    cool = corrector or (cools and steps < SHORT_RUN)
    orders = [min(order, i + 1, steps - i if cool else order) for i in range(steps)]

    def rows() -> Iterator[Row]:
        for i, (a, b) in enumerate(pairwise(levels)):
            answers, at, x = (space(a), *PAST), levels[i::-1], X
            if corrector and i > 0 and np.isfinite(levels[i - 1].half_log_snr):
                p = orders[i - 1] + 1
                x = integrate(KEPT, levels[i - 1], a, answers[:p], at[:p], space=space, sde=False, moments=moments)
            p = orders[i]
            ahead = integrate(x, a, b, answers[:p], at[:p], space=space, sde=sde, moments=moments)
            yield evaluation(a, x=ahead, kept=x, push=space(a))

    return table(rows())


def dpm_solver_2m(levels: Sequence[Level]) -> Trajectory:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): D + h / (2 h_before) (D - D_before), integrated exactly."""
    return multistep(levels, 2, moments=midpoint)


def dpm_solver_3m(levels: Sequence[Level]) -> Trajectory:
    """DPM-Solver++(3M) (Lu et al. 2022, appendix B), as published: it has second order, see `published_third`."""
    return multistep(levels, 3, moments=published_third)


def dpm_solver_2m_sde(levels: Sequence[Level]) -> Trajectory:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, eq. 18), for the reverse stochastic equation."""
    return multistep(levels, 2, moments=midpoint, sde=True)


def dpm_solver_3m_sde(levels: Sequence[Level]) -> Trajectory:
    """SDE-DPM-Solver++(3M) (after Lu et al. 2022, eq. 18), as by K. Crowson's k-diffusion."""
    return multistep(levels, 3, moments=halved_third, sde=True, cools=False)


def deis(levels: Sequence[Level]) -> Trajectory:
    """DEIS of third order (Zhang & Chen 2023, eq. 15): eps interpolated in lambda."""
    return multistep(levels, 3, moments=exact, space=eps)


def unipc(levels: Sequence[Level]) -> Trajectory:
    """UniPC of third order with B_2(h) (Zhao et al. 2023, algorithms 5 to 8); its corrector evaluates nothing more."""
    return multistep(levels, 3, moments=midpoint, corrector=True)


STOCHASTIC_PART = (0.2, 0.8)  # of the timesteps, where SA-Solver adds noise; before and after it solves the flow


def sa_solver(levels: Sequence[Level], process: Process) -> Trajectory:
    """SA-Solver (Xue et al. 2023, algorithm 1): predictor and corrector of two answers each, with tau 1 or 0.

    An evaluation first redoes the step that led to it, with that step's noise, which H3 holds, then predicts the next.
    """
    steps = len(levels) - 1
    low, high = (share * process.timesteps for share in STOCHASTIC_PART)

    def rows() -> Iterator[Row]:
        for i, (a, b) in enumerate(pairwise(levels)):
            x, order, sde = X, min(2, i + 1, steps - i), low <= a.t <= high
            if i > 0 and np.isfinite(levels[i - 1].half_log_snr):
                before = levels[i - 1]
                x = integrate(
                    KEPT, before, a, (DENOISED, H1), (a, before), space=denoised, sde=low <= before.t <= high,
                    moments=half_square, noise=H3,
                )  # fmt: skip
            answers, at = (DENOISED, H1)[:order], levels[i::-1][:order]
            ahead = integrate(x, a, b, answers, at, space=denoised, sde=sde, moments=half_square)
            yield a, np.stack([ahead, x, DENOISED, H2, NOISE if sde and b.sigma > 0 else 0 * X])

    return table(rows())
