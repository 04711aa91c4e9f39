"""Orders of convergence of the solvers: `python -m tests.benchmarks.solver_order [--output docs/results/solvers.png]`.

The data are N(0.7, 0.4^2) in one dimension. Their denoiser is linear, so a whole run is x_N = g x_0 + b + noise, and
the error of a solver is known without sampling. Deterministic solvers are compared with the probability flow, which
keeps every x at its quantile; stochastic solvers with the mean and deviation of the data at the last level.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from training.model.solver_table import Level, Trajectory
from training.model.solvers import SOLVERS

MU, SPREAD = 0.7, 0.4
DETERMINISTIC = ("euler", "plms", "lms", "heun", "dpm_solver_2m", "dpm_solver_3m", "deis", "unipc")
STOCHASTIC = ("ddpm", "dpm_solver_2m_sde", "dpm_solver_3m_sde")
COUNTS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
MEASURED = 64  # steps from which the slope is fitted


def levels(steps: int) -> list[Level]:
    """Return levels evenly spaced in half log-SNR from -4 to 4, variance preserving. t counts the levels."""
    half_log_snr = np.linspace(-4, 4, steps + 1)
    alphas = 1 / np.sqrt(1 + np.exp(-2 * half_log_snr))
    return [Level(float(i), float(a), float(np.sqrt(1 - a**2))) for i, a in enumerate(alphas)]


def moments(trajectory: Trajectory, at: Sequence[Level]) -> tuple[float, float, float]:
    """Return the exact (gain, offset, variance of the noise) of the last x of a run from x.

    The state is an affine function of x and of every noise: a matrix [5, 2 + E].
    """
    state = np.zeros((5, 2 + len(trajectory)))
    state[0, 0] = 1
    for i, (t, A) in enumerate(zip(trajectory.t, trajectory.A, strict=True)):
        level = at[round(t)]
        gain = level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
        denoised = gain * state[0]
        denoised[1] += MU - gain * level.alpha * MU
        noise = np.zeros(state.shape[1])
        noise[2 + i] = 1
        state = A @ np.vstack([state, denoised, noise])
    return float(state[0, 0]), float(state[0, 1]), float(np.sum(state[0, 2:] ** 2))


def spread(level: Level) -> float:
    """Return the standard deviation of z_t."""
    return math.hypot(level.alpha * SPREAD, level.sigma)


def error(name: str, steps: int) -> tuple[int, float]:
    """Return the network evaluations and the error of a run of `steps` steps."""
    at = levels(steps)
    trajectory = SOLVERS[name](at)
    gain, offset, variance = moments(trajectory, at)
    if name in STOCHASTIC:  # from z_t's own distribution
        mean = gain * at[0].alpha * MU + offset
        deviation = math.sqrt((gain * spread(at[0])) ** 2 + variance)
        wrong = abs(mean - at[-1].alpha * MU) + abs(deviation - spread(at[-1]))
    else:
        exact = spread(at[-1]) / spread(at[0])
        wrong = abs(gain - exact) + abs(offset - at[-1].alpha * MU + exact * at[0].alpha * MU)
    return len(trajectory), wrong


def errors(name: str, counts: Sequence[int] = COUNTS) -> tuple[list[int], list[float]]:
    """Return the evaluations and errors of runs with these step counts."""
    pairs = [error(name, steps) for steps in counts]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def slope(evaluations: Sequence[int], wrong: Sequence[float]) -> float:
    """Return the order: minus the slope of log error against log evaluations, from MEASURED evaluations on."""
    kept = [(n, e) for n, e in zip(evaluations, wrong, strict=True) if n >= MEASURED]
    x, y = np.log(np.array(kept)).T
    return float(-np.polyfit(x, y, 1)[0])


def plot(results: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    """Plot error against evaluations, both logarithmic, with lines of order 1, 2 and 3."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), constrained_layout=True)
    for axis, names, title in (
        (axes[0], DETERMINISTIC, "Deterministic: distance to the exact probability flow"),
        (axes[1], STOCHASTIC, "Stochastic: error of mean + error of deviation"),
    ):
        for marker, name in zip("osD^v<>P", names, strict=False):
            found = results[name]
            axis.loglog(*found, marker=marker, markersize=4, label=f"{name}, order {slope(*found):.2f}")
        n = np.array([16.0, 680.0])
        for order in (1, 2, 3):
            start = results[names[0]][1][0]
            axis.loglog(n, start * (n / n[0]) ** -order, "--", color="0.75", zorder=0)
            axis.annotate(f"order {order}", (n[1] * 1.04, start * (n[1] / n[0]) ** -order), color="0.4", fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("network evaluations")
        axis.set_ylabel("error")
        axis.set_xlim(14, 1150)
        axis.set_xticks([16, 32, 64, 128, 256, 512], ["16", "32", "64", "128", "256", "512"])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.2)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/results/solvers.png"))
    options = parser.parse_args(arguments)
    results = {name: errors(name) for name in (*DETERMINISTIC, *STOCHASTIC)}
    table = Table(title="Error on a Gaussian")
    for column in ("solver", "32 steps", "64 steps", "256 steps", "order"):
        table.add_column(column)
    for name, found in results.items():
        shown = [found[1][COUNTS.index(steps)] for steps in (32, 64, 256)]
        table.add_row(name, *(f"{value:.1e}" for value in shown), f"{slope(*found):.2f}")
    Console().print(table)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    plot(results, options.output)
    Console().print(f"{options.output} is written")


if __name__ == "__main__":
    main()
