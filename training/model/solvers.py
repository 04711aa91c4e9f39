"""The solvers by name, and how often each evaluates the network; see `solver_table` for what they are made of."""

from collections.abc import Callable, Sequence

from training.model.distilled_solvers import DISTILLED_SOLVERS, lcm, tcd
from training.model.exponential_solvers import (
    deis,
    dpm_solver_2m,
    dpm_solver_2m_sde,
    dpm_solver_3m,
    dpm_solver_3m_sde,
    sa_solver,
    unipc,
)
from training.model.linear_multistep_solvers import lms, plms
from training.model.midpoint_solvers import dpm2, dpm2_ancestral, dpm_solver_sde
from training.model.restart_solver import restart
from training.model.single_step_solvers import ancestral, ddim, heun
from training.model.solver_table import Level, Process, Trajectory

# Every builder takes the levels of a spacing; those of LOOK_UP also the process, for its timesteps and levels between.
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
    "restart": restart,
    "sa_solver": sa_solver,
    "tcd": tcd,
    "unipc": unipc,
}
LOOK_UP = ("dpm2", "dpm2_ancestral", "dpm_solver_sde", "restart", "sa_solver", "tcd", *DISTILLED_SOLVERS)


def build(solver: str, levels: Sequence[Level], process: Process, **options: float) -> Trajectory:
    """Build a solver's trajectory over levels of the process. options: of the builder."""
    needed = (process,) if solver in LOOK_UP else ()
    return {**SOLVERS, **DISTILLED_SOLVERS}[solver](levels, *needed, **options)


def count_steps(spacing: str, steps: int, timesteps: int = 1000) -> int:
    """Return how many steps a run of N = `steps` steps has: N, or with "leading" what the authors' code takes.

    That is T / floor(T / N) rounded up: 31 for N = 30. It is N where their code fails, because the first step would
    begin at timestep T.
    """
    if spacing != "leading":
        return steps
    stride = timesteps // steps
    taken = len(range(0, timesteps, stride))
    return taken if (taken - 1) * stride + 1 < timesteps else steps


def steps_taken(steps: int, strength: float) -> int:
    """Return how many of the steps, the last ones, a run of this strength takes: rounded down as in diffusers."""
    return max(1, int(strength * steps))


def count_evaluations(
    solver: str, steps: int, *, starts_in_pure_noise: bool = False, ends_at_data: bool = True, flow: bool = False
) -> int:
    """Return how many times a run of `steps` >= 1 steps evaluates the network: `len` of its trajectory.

    starts_in_pure_noise: the first level has alpha 0, as with zero terminal SNR or flow and "trailing" spacing.
    ends_at_data: the last level has sigma 0; "leading" spacings end at timestep 0 instead, unless they use them all.
    flow: the model's schedule is flow. Heun's method, restarts with it and those of DPM-Solver-2 evaluate twice a step,
    and PLMS in its first step, but only once at either of these ends; Heun's method for flow also twice from pure
    noise.
    The count is that of unguided sampling. Raises ValueError for an unknown solver.
    """
    if solver not in SOLVERS and solver not in DISTILLED_SOLVERS:
        raise ValueError(f"solver: {solver!r} is not known; permitted: {', '.join(sorted(SOLVERS))}")
    heun_for_flow = flow and solver in ("heun", "restart")
    single = {0} if starts_in_pure_noise and not heun_for_flow else set()  # steps with one evaluation
    if ends_at_data:
        single.add(steps - 1)
    match solver:
        case "heun" | "restart" | "dpm2" | "dpm2_ancestral" | "dpm_solver_sde":
            return 2 * steps - len(single)
        case "plms":
            return steps + (0 not in single)
        case _:
            return steps
