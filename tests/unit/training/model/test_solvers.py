"""The solvers against diffusers and against a Gaussian, whose denoiser and probability flow are known exactly."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from training.model import solvers
from training.model.diffusion import Diffusion, DiffusionConfig, betas
from training.model.solvers import DATA, Level, Trajectory

MU, SPREAD = 0.7, 0.4  # the data: N(MU, SPREAD^2)
DIFFUSION = Diffusion(DiffusionConfig())


def levels(steps: int) -> list[Level]:
    return [*map(DIFFUSION.level, solvers.trailing(steps, 1000)), DATA]


def denoiser(x: Tensor, level: Level) -> Tensor:
    """E[z_0 | z_t = x] for Gaussian data."""
    gain = level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
    return MU + gain * (x - level.alpha * MU)


def run(trajectory: Trajectory, at: list[Level], x: Tensor, noises: list[Tensor]) -> Tensor:
    state = x.new_zeros(len(x), 5, *x.shape[1:])
    state[:, 0] = x
    for i in range(len(trajectory)):
        A = torch.from_numpy(trajectory.A[i]).expand(len(x), 5, 7)
        state = solvers.step(state, denoiser(state[:, 0], at[i]), noises[i], A)
    return state[:, 0]


def start(steps: int, rows: int = 2) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(rows, 3, 4, generator=generator, dtype=torch.float64) for _ in range(steps + 1)]
    return draw[0], draw[1:]


def eps_of(x: Tensor, level: Level) -> Tensor:
    return (x - level.alpha * denoiser(x, level)) / level.sigma


def diffusers_ddim(steps: int, eta: float) -> Tensor:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(
        trained_betas=betas(DIFFUSION.config).numpy(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = torch.cumprod(1 - betas(DIFFUSION.config), 0)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    x, noises = start(steps)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        noise = noises[i] if eta else None
        x = scheduler.step(eps_of(x, DIFFUSION.level(t)), t, x, eta=eta, variance_noise=noise).prev_sample
    return x


def diffusers_ddpm(steps: int) -> tuple[Tensor, list[Tensor]]:
    """Also returns the noise that diffusers drew: its DDPM takes a generator, not noise."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(
        trained_betas=betas(DIFFUSION.config).numpy(), clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.alphas_cumprod = torch.cumprod(1 - betas(DIFFUSION.config), 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    x, _ = start(steps)
    drawn = []
    for i, t in enumerate(scheduler.timesteps.tolist()):
        drawn.append(torch.randn(x.shape, generator=torch.Generator().manual_seed(i), dtype=x.dtype))
        generator = torch.Generator().manual_seed(i)
        x = scheduler.step(eps_of(x, DIFFUSION.level(t)), t, x, generator=generator).prev_sample
    return x, drawn


def diffusers_2m(steps: int) -> Tensor:
    """Its update functions in float64; its `step` rounds to float32 and chooses the order as is done here."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        trained_betas=betas(DIFFUSION.config).numpy(), timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    squares = torch.cumprod(1 - betas(DIFFUSION.config), 0)[timesteps]
    scheduler.sigmas = torch.cat([((1 - squares) / squares).sqrt(), squares.new_zeros(1)])
    x, _ = start(steps)
    answers: list[Tensor] = []
    for i, t in enumerate(timesteps):
        scheduler._step_index = i
        answers.append(denoiser(x, DIFFUSION.level(t)))
        if i == 0 or i == steps - 1:
            x = scheduler.dpm_solver_first_order_update(answers[-1], sample=x)
        else:
            x = scheduler.multistep_dpm_solver_second_order_update(answers[-2:], sample=x)
    return x


def largest(difference: Tensor) -> float:
    return float(difference.abs().max())


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_is_diffusers_ddim(steps: int, eta: float) -> None:
    at, (x, noises) = levels(steps), start(steps)
    found = run(solvers.ddim(at, eta), at, x, noises)
    assert largest(found - diffusers_ddim(steps, eta)) < 1e-12


@pytest.mark.parametrize("steps", [4, 20, 50])
def test_ddpm_is_diffusers_ddpm(steps: int) -> None:
    expected, noises = diffusers_ddpm(steps)
    at, (x, _) = levels(steps), start(steps)
    assert largest(run(solvers.ddpm(at), at, x, noises) - expected) < 1e-9  # diffusers clamps variances at 1e-20


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
@pytest.mark.parametrize("steps", [2, 5, 20, 50])
def test_dpm_solver_2m_is_diffusers(steps: int) -> None:
    at, (x, noises) = levels(steps), start(steps)
    assert largest(run(solvers.dpm_solver_2m(at), at, x, noises) - diffusers_2m(steps)) < 1e-12


def test_any_step_count_gives_as_many_evaluations_at_falling_timesteps() -> None:
    for steps in range(1, 1001):
        timesteps = solvers.trailing(steps, 1000)
        assert len(timesteps) == steps
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0
        assert all(a > b for a, b in pairwise(timesteps))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_other_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps: {steps} is not allowed; permitted: an integer from 1 to 1000"):
        solvers.trailing(steps, 1000)


@pytest.mark.parametrize("solver", sorted(solvers.SOLVERS))
@pytest.mark.parametrize("steps", [1, 2, 61, 400, 1000])
def test_trajectories_are_finite_and_as_long_as_asked(solver: str, steps: int) -> None:
    trajectory = solvers.SOLVERS[solver](levels(steps))
    assert len(trajectory) == steps
    assert trajectory.A.shape == (steps, 5, 7)
    assert np.isfinite(trajectory.A).all()
    assert not trajectory.noisy(steps - 1), "noise would end up in the image"


def error_of(builder: Callable[[list[Level]], Trajectory], steps: int) -> float:
    """Distance to the exact probability flow, which keeps every x at its quantile; half log-SNR from -5 to 5."""
    half_log_snr = np.linspace(-5, 5, steps + 1)
    alphas = 1 / np.sqrt(1 + np.exp(-2 * half_log_snr))
    at = [Level(float(i), float(a), float(np.sqrt(1 - a**2))) for i, a in enumerate(alphas)]
    x, noises = start(steps)

    def spread(level: Level) -> float:
        return math.hypot(level.alpha * SPREAD, level.sigma)

    exact = at[-1].alpha * MU + spread(at[-1]) / spread(at[0]) * (x - at[0].alpha * MU)
    return largest(run(builder(at), at, x, noises) - exact)


def test_ddim_is_first_order_and_2m_second_order() -> None:
    def ratios(builder: Callable[[list[Level]], Trajectory]) -> list[float]:
        errors = [error_of(builder, steps) for steps in (100, 200, 400)]
        return [a / b for a, b in pairwise(errors)]

    assert ratios(solvers.ddim) == pytest.approx([2, 2], rel=0.1)
    assert ratios(solvers.dpm_solver_2m) == pytest.approx([4, 4], rel=0.1)


def test_ddpm_samples_have_the_data_s_mean_and_spread() -> None:
    at = levels(1000)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    noises = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(1000)]
    samples = run(solvers.ddpm(at), at, x, noises)
    assert float(samples.mean()) == pytest.approx(MU, abs=0.02)
    assert float(samples.std()) == pytest.approx(SPREAD, rel=0.04)


def test_rows_with_other_solvers_and_step_counts_share_a_batch_without_a_trace() -> None:
    asked = [("ddim", 7), ("ddpm", 5), ("dpm_solver_2m", 9), ("ddpm", 1)]
    shape = (2, 4, 4)

    def noise(row: int, index: int) -> Tensor:
        return solvers.seeded_noise(row, index, shape)

    alone = []
    for row, (solver, steps) in enumerate(asked):
        at = levels(steps)
        noises = [noise(row, i + 1)[None] for i in range(steps)]
        alone.append(run(solvers.SOLVERS[solver](at), at, noise(row, 0)[None], noises)[0])

    trajectories = [solvers.SOLVERS[solver](levels(steps)) for solver, steps in asked]
    state = torch.zeros(len(asked), 5, *shape)
    state[:, 0] = torch.stack([noise(row, 0) for row in range(len(asked))])
    together: dict[int, Tensor] = {}
    for i in range(max(len(trajectory) for trajectory in trajectories)):
        active = [row for row in range(len(asked)) if i < len(trajectories[row])]
        at = [levels(asked[row][1])[i] for row in active]
        x = state[active, 0]
        denoised = torch.cat([denoiser(x[k : k + 1], level) for k, level in enumerate(at)])
        A = torch.from_numpy(np.stack([trajectories[row].A[i] for row in active]))
        fresh = torch.stack([noise(row, i + 1) for row in active])
        state[active] = solvers.step(state[active], denoised, fresh, A)
        together |= {row: state[row, 0].clone() for row in active}
    for row, expected in enumerate(alone):
        assert torch.equal(together[row], expected), asked[row]


def test_seeded_noise_is_a_function_of_seed_and_index() -> None:
    one = solvers.seeded_noise(5, 2, (3, 8))
    solvers.seeded_noise(9, 9, (100,))
    assert torch.equal(one, solvers.seeded_noise(5, 2, (3, 8)))
    assert not torch.equal(one, solvers.seeded_noise(6, 2, (3, 8)))
    assert not torch.equal(one, solvers.seeded_noise(5, 3, (3, 8)))
    assert not torch.equal(one, solvers.seeded_noise(2, 5, (3, 8)))


def test_seeded_noise_is_standard_normal_and_neighbours_are_unrelated() -> None:
    noise = torch.stack([solvers.seeded_noise(seed, 0, (1000,)) for seed in range(200)]).double()
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=0.1)
    assert float((noise[1:] * noise[:-1]).mean()) == pytest.approx(0, abs=0.01)
