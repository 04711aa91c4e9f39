"""The solvers on a Gaussian, whose denoiser and probability flow are known exactly."""

from itertools import chain, pairwise, product

import numpy as np
import pytest
import torch

from tests.benchmarks.solver_order import DETERMINISTIC, STOCHASTIC, errors, slope
from training.model import exponential_solvers, spacing
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.noise import seeded_noise
from training.model.solver_step import advance
from training.model.solver_table import Level, Trajectory
from training.model.solvers import SOLVERS, build, count_evaluations
from training.model.spacing import SPACINGS

DIFFUSION = Diffusion(DiffusionConfig())


def levels(steps: int, name: str = "trailing", diffusion: Diffusion = DIFFUSION) -> list[Level]:
    return spacing.levels(diffusion, steps, name)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("steps", [1, 2, 3, 61, 400, 1000])
def test_trajectories_are_finite_and_have_the_counted_length(solver: str, steps: int) -> None:
    trajectory = build(solver, levels(steps), DIFFUSION)
    assert len(trajectory) == count_evaluations(solver, steps)
    assert trajectory.A.shape == (len(trajectory), 5, 7)
    assert np.isfinite(trajectory.A).all()
    assert not trajectory.noisy[-1], "noise would end up in the image"


KINDS = ("ays", "karras", "leading", "linspace", "trailing")  # of spacings; the others have levels as karras has
CONFIGS = {
    "scaled_linear": DiffusionConfig(),
    "zero_terminal_snr": DiffusionConfig(zero_terminal_snr=True, parameterisation="v"),
    "flow": DiffusionConfig(schedule="flow", parameterisation="flow"),
    "cosine": DiffusionConfig(schedule="cosine"),
}


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_the_network_is_evaluated_as_often_as_counted(solver: str) -> None:
    usual = product([CONFIGS["scaled_linear"]], ["trailing"], range(1, 61))
    for config, name, steps in chain(usual, product(CONFIGS.values(), KINDS, [1, 2, 3, 8])):
        process = Diffusion(config)
        at = levels(steps, name, process)
        counted = count_evaluations(
            solver, steps, starts_in_pure_noise=at[0].alpha == 0, ends_at_data=at[-1].sigma == 0,
            flow=config.schedule == "flow",
        )  # fmt: skip
        assert len(build(solver, at, process)) == counted, (config, name, steps)


def test_only_known_solvers_are_counted() -> None:
    with pytest.raises(ValueError, match=r"solver: 'huen' is not known; permitted: ddim, ddpm, .* unipc$"):
        count_evaluations("huen", 5)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_perfect_network_leads_to_the_image(solver: str, name: str, config: DiffusionConfig) -> None:
    """Every solver, from pure noise where the schedule has it, ends at z_0 exactly when every answer is z_0."""
    for steps in (1, 2, 5, 20):
        process = Diffusion(config)
        at = levels(steps, name, process)
        trajectory = build(solver, at, process)
        generator = torch.Generator().manual_seed(0)
        z0, x, *noises = (
            torch.randn(1, 3, generator=generator, dtype=torch.float64) for _ in range(2 + len(trajectory))
        )
        x = at[0].alpha * z0 + at[0].sigma * x
        state = torch.zeros(1, 5, 3, dtype=torch.float64)
        state[:, 0] = x
        for i in range(len(trajectory)):
            state = advance(state, z0, noises[i], torch.from_numpy(trajectory.A[i])[None])
        if solver == "lcm":  # which also keeps a share of its input
            continue
        if at[-1].sigma == 0:
            torch.testing.assert_close(state[:, 0], z0, rtol=0, atol=1e-9)
        else:  # leading ends at the level of t = 0
            rest = (state[:, 0] - at[-1].alpha * z0) / at[-1].sigma
            assert float(rest.abs().max()) < 6, "what is left is noise of the last level"


def test_orders_of_convergence_are_the_known_ones() -> None:
    found = {name: slope(*errors(name)) for name in (*DETERMINISTIC, *STOCHASTIC)}
    first = ("euler", "ddpm")
    second = ("heun", "dpm_solver_2m", "dpm_solver_3m", "dpm_solver_2m_sde", "dpm_solver_3m_sde")
    for name in first:
        assert found[name] == pytest.approx(1, abs=0.15), found
    for name in second:
        assert found[name] == pytest.approx(2, abs=0.25), found
    assert found["deis"] > 2.9, found
    assert found["lms"] > 3.5, found
    assert found["plms"] == pytest.approx(2, abs=0.25), found  # its first step is of second order
    assert found["unipc"] > 2, found  # its last steps use fewer answers


def test_the_exact_moments_make_3m_third_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the published one is second order."""

    def exact_3m(levels: list[Level]) -> Trajectory:
        return exponential_solvers.multistep(levels, 3, moments=exponential_solvers.exact)

    monkeypatch.setitem(SOLVERS, "exact_3m", exact_3m)
    assert slope(*errors("exact_3m")) > 2.9


def test_rows_with_different_matrices_share_a_step_unchanged() -> None:
    rows = []
    for k, solver in enumerate([*sorted(SOLVERS), *sorted(SOLVERS)[:5]]):
        trajectory = build(solver, levels(5 + k), DIFFUSION)
        rows.append(torch.from_numpy(trajectory.A[min(k, len(trajectory) - 1)]))
    A = torch.stack(rows)
    n = len(rows)
    state, denoised, noise = torch.randn(n, 5, 3, 8, 8), torch.randn(n, 3, 8, 8), torch.randn(n, 3, 8, 8)
    together = advance(state, denoised, noise, A)
    for k in range(n):
        alone = advance(state[k : k + 1], denoised[k : k + 1], noise[k : k + 1], A[k : k + 1])
        assert torch.equal(together[k : k + 1], alone)
    basis = torch.cat([state, denoised[:, None], noise[:, None]], dim=1).double()
    expected = torch.einsum("rij,rj...->ri...", A, basis)
    torch.testing.assert_close(together.double(), expected, rtol=1e-5, atol=1e-4)


def test_ddpm_samples_have_the_mean_and_spread_of_the_data() -> None:
    _, found = errors("ddpm", counts=[1000])
    assert found[0] < 5e-3


def test_noise_falls_in_every_spacing() -> None:
    for name in SPACINGS:
        ratios = [level.sigma / level.alpha for level in levels(17, name)]
        assert all(a > b for a, b in pairwise(ratios)), name


def test_seeded_noise_is_a_function_of_seed_and_index() -> None:
    one = seeded_noise(5, 2, (3, 8))
    seeded_noise(9, 9, (100,))
    assert torch.equal(one, seeded_noise(5, 2, (3, 8)))
    assert not torch.equal(one, seeded_noise(6, 2, (3, 8)))
    assert not torch.equal(one, seeded_noise(5, 3, (3, 8)))
    assert not torch.equal(one, seeded_noise(2, 5, (3, 8)))


def test_seeded_noise_is_standard_normal_and_neighbours_are_unrelated() -> None:
    noise = torch.stack([seeded_noise(seed, 0, (1000,)) for seed in range(200)]).double()
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=0.1)
    assert float((noise[1:] * noise[:-1]).mean()) == pytest.approx(0, abs=0.01)
