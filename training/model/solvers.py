"""Every sampler is a sequence of small matrices.

A row's sampling state is five latents [x, kept, h1, h2, h3]. Everything that a sampler does between two network
evaluations is linear in them, in the network's answer and in fresh noise:

    state <- A[i] @ [x, kept, h1, h2, h3, denoised, noise]          A[i]: 5 x 7, computed in float64

`x` is the network's next input, `kept` the start of a step of several evaluations, and h1..h3 are earlier answers in
the solver's own space (denoised, or eps), newest first. A builder writes the paper's update on the seven unit vectors
and never touches a tensor. So rows with different solvers and step counts share one batch, and one
product-and-sum (`solver_step.advance`) steps them all. Nothing assumes alpha^2 + sigma^2 = 1, so flow matching works
too. This module needs numpy alone, so a process without torch can count a run's network evaluations.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
X, KEPT, H1, H2, H3, DENOISED, NOISE = np.eye(7)
PAST = (H1, H2, H3)


class Level(NamedTuple):
    """One noise level: z = alpha z_0 + sigma eps."""

    t: float  # the timestep given to the network; some spacings make it fractional
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma): +inf at the data, -inf in pure noise."""
        with np.errstate(divide="ignore"):
            return float(np.log(self.alpha) - np.log(self.sigma))


DATA = Level(0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Trajectory:
    """The sampling run of one row: E network evaluations."""

    t: Vector  # [E], the timestep of each evaluation
    alpha: Vector  # [E], its level
    sigma: Vector  # [E]
    A: NDArray[np.float64]  # [E, 5, 7]

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


def ddim(levels: Sequence[Level], eta: float = 0.0) -> Trajectory:
    """DDIM (Song et al. 2021, eq. 12): with eta 0 Euler's method, also for flow matching; with eta 1 ancestral."""
    return table(evaluation(a, x=towards(X, DENOISED, a, b, eta)) for a, b in pairwise(levels))


def ancestral(levels: Sequence[Level]) -> Trajectory:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) = DDIM with eta 1 = Euler-ancestral in sigma / alpha."""
    return ddim(levels, eta=1.0)


def heun(levels: Sequence[Level]) -> Trajectory:
    """Heun's method (Karras et al. 2022, algorithm 1), in y = x / alpha with dy / d(sigma / alpha) = eps.

    y' = y_a + (s_b - s_a) eps_a,   y_b = y_a + (s_b - s_a) (eps_a + eps_b(y')) / 2,   s = sigma / alpha
    """

    def rows() -> Iterator[Row]:
        for a, b in pairwise(levels):
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
) -> Trajectory:
    """Predict each step from up to `order` answers so far; short runs use fewer at their end (Lu et al. 2022).

    With a corrector, each evaluation first redoes the step that led to it, now that the answer at its end is known
    (Zhao et al. 2023), and every run uses fewer answers at its end.
    """
    steps = len(levels) - 1
    cool = corrector or steps < SHORT_RUN
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


def deis(levels: Sequence[Level]) -> Trajectory:
    """DEIS of third order (Zhang & Chen 2023, eq. 15): eps interpolated in lambda."""
    return multistep(levels, 3, moments=exact, space=eps)


def unipc(levels: Sequence[Level]) -> Trajectory:
    """UniPC of third order with B_2(h) (Zhao et al. 2023, algorithms 5 to 8); its corrector evaluates nothing more."""
    return multistep(levels, 3, moments=midpoint, corrector=True)


SOLVERS: dict[str, Callable[..., Trajectory]] = {
    "ddim": ddim,
    "ddpm": ancestral,
    "deis": deis,
    "dpm_solver_2m": dpm_solver_2m,
    "dpm_solver_2m_sde": dpm_solver_2m_sde,
    "dpm_solver_3m": dpm_solver_3m,
    "euler": ddim,
    "euler_ancestral": ancestral,
    "heun": heun,
    "plms": plms,
    "unipc": unipc,
}


def count_evaluations(solver: str, steps: int, *, starts_in_pure_noise: bool = False, ends_at_data: bool = True) -> int:
    """Return how many times a run of `steps` >= 1 steps evaluates the network: `len` of its trajectory.

    starts_in_pure_noise: the first level has alpha 0, as with zero terminal SNR or flow and "trailing" spacing.
    ends_at_data: the last level has sigma 0; "leading" spacing ends at timestep 0 instead, unless it uses them all.
    Heun's method evaluates twice a step, and PLMS in its first step, but only once at either of these ends.
    The count is that of unguided sampling. Raises ValueError for an unknown solver.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver: {solver!r} is not known; permitted: {', '.join(sorted(SOLVERS))}")
    single = {0} if starts_in_pure_noise else set()  # steps that evaluate the network once
    if ends_at_data:
        single.add(steps - 1)
    match solver:
        case "heun":
            return 2 * steps - len(single)
        case "plms":
            return steps + (0 not in single)
        case _:
            return steps
