"""The solvers by name; see `solver_table` for what they are made of."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from training.model.distilled_solvers import DISTILLED_SOLVERS, lcm, tcd
from training.model.midpoint_solvers import dpm2, dpm2_ancestral, dpm_solver_sde
from training.model.solver_table import (
    DENOISED,
    H1,
    KEPT,
    NOISE,
    PAST,
    Answer,
    Level,
    Process,
    Row,
    Trajectory,
    Vector,
    X,
    along,
    denoised,
    eps,
    evaluation,
    noise_std,
    table,
    towards,
    velocity,
)

# -- one answer: along a straight line ----------------------------------------------------------


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

    def rows() -> Iterator[Row]:
        for a, b in pairwise(levels):
            if flow and b.sigma > 0:
                yield evaluation(a, x=towards(X, DENOISED, a, b), kept=X, push=velocity(a))
                yield evaluation(b, x=KEPT + (b.sigma - a.sigma) * (H1 + velocity(b)) / 2)
                continue
            yield evaluation(a, x=towards(X, DENOISED, a, b), kept=X, push=eps(a))
            if b.sigma > 0 and a.alpha > 0:  # a step to the data or from pure noise evaluates once
                yield evaluation(b, x=along(KEPT, (H1 + eps(b)) / 2, a, b))

    return table(rows())


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


# -- several answers: exponential integrators in the half log-SNR -------------------------------

SHORT_RUN = 15  # with fewer steps the order falls towards the data, as published
Moments = Callable[[float, float, int], Vector]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)


def exact(h: float, k: float, order: int) -> Vector:
    """Return M_m = int_0^h exp(-k (h - u)) u^m du for m < order, by Gauss-Legendre: no cancellation at small h."""
    u = (NODES + 1) * h / 2
    return np.array([np.sum(WEIGHTS * h / 2 * np.exp(-k * (h - u)) * u**m) for m in range(order)])


def midpoint(h: float, k: float, order: int) -> Vector:
    """Return the moments published for DPM-Solver++(2M) and UniPC's B_2: with two answers M_1 is h / 2 M_0."""
    M = exact(h, k, order)
    return np.array([M[0], h / 2 * M[0]]) if order == 2 else M


def published_third(h: float, k: float, order: int) -> Vector:
    """Return the moments published for DPM-Solver++(3M): with three answers M_2 is halved, which costs an order."""
    return midpoint(h, k, order) * ([1.0, 1.0, 0.5] if order == 3 else 1.0)


def halved_third(h: float, k: float, order: int) -> Vector:
    """Return the moments of k-diffusion's DPM-Solver++(3M) SDE: exact, but with three answers M_2 is halved."""
    return exact(h, k, order) * ([1.0, 1.0, 0.5] if order == 3 else 1.0)


def integrate(
    x: Vector, a: Level, b: Level, answers: Sequence[Vector], at: Sequence[Level], *, space: Answer, sde: bool,
    moments: Moments,
) -> Vector:  # fmt: skip
    """Step from level a to b by variation of constants, interpolating the answers by a polynomial in lambda.

    denoised: x_b = sigma_b / sigma_a e^{-sde h} x + (1 + sde) alpha_b int e^{-(1 + sde)(lambda_b - l)} D(l) dl + noise
    eps:      x_b = alpha_b / alpha_a x - sigma_b int e^{lambda_b - l} eps(l) dl

    Lu et al. 2022 (DPM-Solver++, eq. 8 and 18), Zhang & Chen 2023 (DEIS, eq. 15), Zhao et al. 2023 (UniPC, where b is
    among `at`). A step to or from an infinite lambda uses one answer.
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
    return decay * x + k * b.alpha * integral + noise_std(a, b, float(sde)) * NOISE


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


# Every builder takes the levels of a spacing; those of WITHIN_STEPS also the process, for the levels between them.
SOLVERS: dict[str, Callable[..., Trajectory]] = {
    "ddim": ddim,
    "ddpm": ancestral,
    "deis": deis,
    "dpm_solver_2m": dpm_solver_2m,
    "dpm_solver_2m_sde": dpm_solver_2m_sde,
    "dpm2": dpm2,
    "dpm2_ancestral": dpm2_ancestral,
    "dpm_solver_3m": dpm_solver_3m,
    "dpm_solver_3m_sde": dpm_solver_3m_sde,
    "dpm_solver_sde": dpm_solver_sde,
    "euler": ddim,
    "euler_ancestral": ancestral,
    "heun": heun,
    "lcm": lcm,
    "lms": lms,
    "plms": plms,
    "tcd": tcd,
    "unipc": unipc,
}
WITHIN_STEPS = ("dpm2", "dpm2_ancestral", "dpm_solver_sde", "tcd", *DISTILLED_SOLVERS)


def build(solver: str, levels: Sequence[Level], process: Process, **options: float) -> Trajectory:
    """Build a solver's trajectory over levels of the process. options: of the builder."""
    needed = (process,) if solver in WITHIN_STEPS else ()
    return {**SOLVERS, **DISTILLED_SOLVERS}[solver](levels, *needed, **options)


def steps_taken(steps: int, strength: float) -> int:
    """Return how many of the steps, the last ones, a run of this strength takes: rounded down as in diffusers."""
    return max(1, int(strength * steps))


def count_evaluations(
    solver: str, steps: int, *, starts_in_pure_noise: bool = False, ends_at_data: bool = True, flow: bool = False
) -> int:
    """Return how many times a run of `steps` >= 1 steps evaluates the network: `len` of its trajectory.

    starts_in_pure_noise: the first level has alpha 0, as with zero terminal SNR or flow and "trailing" spacing.
    ends_at_data: the last level has sigma 0; "leading" spacing ends at timestep 0 instead, unless it uses them all.
    flow: the model's schedule is flow. Heun's method and those of DPM-Solver-2 evaluate twice a step, and PLMS in its
    first step, but only once at either of these ends; Heun's method for flow also twice from pure noise.
    The count is that of unguided sampling. Raises ValueError for an unknown solver.
    """
    if solver not in SOLVERS and solver not in DISTILLED_SOLVERS:
        raise ValueError(f"solver: {solver!r} is not known; permitted: {', '.join(sorted(SOLVERS))}")
    single = {0} if starts_in_pure_noise and not (flow and solver == "heun") else set()  # steps with one evaluation
    if ends_at_data:
        single.add(steps - 1)
    match solver:
        case "heun" | "dpm2" | "dpm2_ancestral" | "dpm_solver_sde":
            return 2 * steps - len(single)
        case "plms":
            return steps + (0 not in single)
        case _:
            return steps
