"""Where the steps of a run lie."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch

from training.model import spacing
from training.model.diffusion import LEAST_TIMESTEPS, Diffusion, DiffusionConfig
from training.model.solver_table import DATA
from training.model.solvers import count_steps
from training.model.spacing import ALIGNED, SPACINGS

DIFFUSION = Diffusion(DiffusionConfig())
ZERO_TERMINAL = Diffusion(DiffusionConfig(zero_terminal_snr=True, parameterisation="v"))
FLOW = Diffusion(DiffusionConfig(schedule="flow", parameterisation="flow"))


def counts(name: str) -> Iterable[int]:
    """Step counts; few where levels are looked up one by one, which is slow."""
    if name in ("lcm", "leading", "leading_exact", "linspace", "trailing"):
        return range(1, 1001)
    return [*range(1, 40), 61, 103, 121, 333, 999, 1000] if name in ("ays", "karras") else [*range(1, 12), 61, 121]


@pytest.mark.parametrize(
    "diffusion", [DIFFUSION, ZERO_TERMINAL, FLOW], ids=["scaled_linear", "zero_terminal_snr", "flow"]
)
@pytest.mark.parametrize("name", sorted(SPACINGS))
def test_any_step_count_gives_exactly_that_many_falling_levels(name: str, diffusion: Diffusion) -> None:
    for steps in counts(name):
        found = spacing.levels(diffusion, steps, name)
        assert len(found) == (count_steps(name, steps) if name == "leading" else steps) + 1
        t, alpha, sigma = np.array(found).T
        assert 0 <= t[-2] <= t[0] <= 999
        assert (np.diff(t[:-1]) < 0).all(), (steps, "timesteps must fall")
        first = int(alpha[0] == 0)  # pure noise may be the first level alone
        assert (np.diff(sigma[first:] / alpha[first:]) < 0).all()


def make_ddim_timesteps(steps: int) -> list[int]:
    """As in the authors' ldm/modules/diffusionmodules/util.py, for the method "uniform" and 1000 timesteps."""
    c = 1000 // steps
    return [t + 1 for t in range(0, 1000, c)]


def test_leading_equals_the_authors_for_every_step_count() -> None:
    failed = []
    for steps in range(1, 1001):
        theirs = make_ddim_timesteps(steps)
        found = spacing.levels(DIFFUSION, steps, "leading")
        assert found[-1].alpha == pytest.approx(float(DIFFUSION.alpha[0])) or steps == 1000
        if theirs[-1] == 1000:  # alphas_cumprod[1000] is an IndexError in their code
            failed.append(steps)
            assert found == spacing.levels(DIFFUSION, steps, "leading_exact")
        else:
            assert [level.t for level in found[:-1]] == theirs[::-1]
    assert failed == [3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)]
    assert (count_steps("leading", 30), count_steps("leading", 400)) == (31, 500)


@pytest.mark.parametrize("steps", [1, 7, 15, 20, 30, 47, 50, 300, 999])
def test_exact_leading_timesteps_are_those_of_diffusers(steps: int) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    theirs.set_timesteps(steps)
    found = spacing.levels(DIFFUSION, steps, "leading_exact")
    assert [level.t for level in found[:-1]] == theirs.timesteps.tolist()


def test_trailing_and_linspace_start_at_the_noisiest_timestep_and_end_at_the_data() -> None:
    assert [level.t for level in spacing.levels(DIFFUSION, 4, "trailing")] == [999, 749, 499, 249, 0]
    assert [level.t for level in spacing.levels(DIFFUSION, 4, "linspace")] == [999, 666, 333, 0, 0]
    for name in ("trailing", "linspace", "karras", "ays"):
        assert spacing.levels(DIFFUSION, 7, name)[-1] == DATA


def test_karras_is_even_in_the_seventh_root() -> None:
    found = spacing.levels(DIFFUSION, 12, "karras")[:-1]
    roots = [(level.sigma / level.alpha) ** (1 / 7) for level in found]
    assert np.diff(roots) == pytest.approx([(roots[-1] - roots[0]) / 11] * 11)
    assert found[0].t == 999
    assert found[-1].t == 0


@pytest.mark.parametrize("name", sorted(SPACINGS))
@pytest.mark.parametrize("timesteps", [LEAST_TIMESTEPS, 23])
def test_short_schedules_permit_any_step_count(name: str, timesteps: int) -> None:
    for config in (
        DiffusionConfig(timesteps=timesteps),
        DiffusionConfig(timesteps=timesteps, zero_terminal_snr=True, parameterisation="v"),
        DiffusionConfig(timesteps=timesteps, schedule="flow", parameterisation="flow"),
    ):
        for steps in range(1, timesteps + 1):
            t = [level.t for level in spacing.levels(Diffusion(config), steps, name)[:-1]]
            assert len(t) == count_steps(name, steps, timesteps)
            assert all(a > b for a, b in pairwise(t)), (config, steps)


def test_ten_aligned_steps_are_the_published_ones() -> None:
    assert [level.t for level in spacing.levels(DIFFUSION, 10, "ays")[:-1]] == pytest.approx(ALIGNED[:-1])


def test_other_step_counts_interpolate_the_published_noise_levels() -> None:
    published = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    stable_diffusion = Diffusion(DiffusionConfig(beta_start=0.00085, beta_end=0.012))
    for steps in (10, 20, 37):
        at = np.linspace(0, 10, steps + 1)[:-1]
        expected = np.exp(np.interp(at, np.arange(11), np.log(published)))
        found = [level.sigma / level.alpha for level in spacing.levels(stable_diffusion, steps, "ays")[:-1]]
        assert found == pytest.approx(expected.tolist(), rel=1e-2)


def test_a_fractional_timestep_and_its_level_agree() -> None:
    for diffusion in (DIFFUSION, Diffusion(DiffusionConfig(schedule="flow", parameterisation="flow"))):
        for level in spacing.levels(diffusion, 9, "karras")[:-1]:
            t = torch.tensor([level.t], dtype=torch.float64)
            alpha, sigma = diffusion.alpha_sigma(t, torch.zeros(1, 2, dtype=torch.float64))
            assert (float(alpha), float(sigma)) == pytest.approx((level.alpha, level.sigma), rel=1e-12)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_other_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps: {steps} is not allowed; permitted: an integer from 1 to 1000"):
        spacing.levels(DIFFUSION, steps, "karras")


def test_an_unknown_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing: 'odd' is not known; permitted: ays, beta, exponential, karras"):
        spacing.levels(DIFFUSION, 3, "odd")
