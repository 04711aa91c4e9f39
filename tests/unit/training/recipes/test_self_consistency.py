"""The targets of distillation against Gaussian data, for which every flow map has a closed form."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.support.gaussian import Table, denoiser, every_step, flow, points
from training.model import spacing
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.solvers import build
from training.recipes.self_consistency import Grids, Steps, targets

SCHEDULES = [
    DiffusionConfig(),
    DiffusionConfig(parameterisation="v", zero_terminal_snr=True),
    DiffusionConfig(schedule="flow", parameterisation="flow"),
]


@pytest.fixture(params=SCHEDULES, ids=["vp", "zero-terminal-snr", "flow"])
def diffusion(request: pytest.FixtureRequest) -> Diffusion:
    return Diffusion(request.param)


def test_each_grid_is_that_of_a_sampling_run(diffusion: Diffusion) -> None:
    grids = Grids(diffusion, 16)
    assert grids.count == 5
    for grid, count in enumerate([16, 8, 4, 2, 1]):
        steps = every_step(grids, grid)
        levels = spacing.trailing(diffusion, count)
        assert grids.timesteps(steps).tolist() == [level.t for level in levels[:-1]]
        assert grids.alpha[steps.end].tolist() == [level.alpha for level in levels[1:]]
        assert grids.sigma[steps.end].tolist() == [level.sigma for level in levels[1:]]
        told = build("shortcut", levels, diffusion).step
        assert told is not None
        assert grids.share(steps).tolist() == pytest.approx(told.tolist(), abs=1e-7)
        assert grids.share(steps).tolist() == pytest.approx([1 / count] * count, abs=1.01e-3)


def test_the_exact_flow_map_is_its_own_target(diffusion: Diffusion) -> None:
    grids = Grids(diffusion, 16)

    def exact(x: Tensor, steps: Steps) -> Tensor:
        return grids.leading(x, flow(grids, x, steps), steps)

    for grid in range(grids.count):
        steps = every_step(grids, grid)
        x = points(len(steps.start))
        torch.testing.assert_close(targets(grids, x, steps, exact), exact(x, steps), rtol=1e-9, atol=1e-9)


def test_move_and_leading_invert_each_other(diffusion: Diffusion) -> None:
    grids = Grids(diffusion, 8)
    steps = every_step(grids, 1)
    x, estimate = points(4), points(8)[4:]
    torch.testing.assert_close(grids.leading(x, grids.move(x, estimate, steps), steps), estimate)


def test_the_teacher_s_target_nears_the_exact_one_with_finer_grids(diffusion: Diffusion) -> None:
    """On the whole way its error falls with the length of the half steps, as Euler's."""
    errors = []
    for finest in (8, 16, 32, 64):
        grids = Grids(diffusion, finest)
        teacher = partial(denoiser, grids)
        x = points(1)
        for start in range(0, 2 * finest, 2):
            steps = Steps(torch.tensor([start]), torch.tensor([2]))
            x = grids.move(x, targets(grids, x, steps, teacher), steps)
        whole = Steps(torch.tensor([0]), torch.tensor([2 * finest]))
        errors.append(float((x - flow(grids, points(1), whole)).abs().max()))
    assert all(after < 0.75 * before for before, after in pairwise(errors)), errors
    assert errors[-1] < 0.06


def test_a_student_that_meets_every_target_goes_in_one_step_where_the_teacher_goes_in_all(diffusion: Diffusion) -> None:
    """From grid to grid the targets compose: the last one is the teacher's whole run, to rounding."""
    grids = Grids(diffusion, 8)
    student = Table(grids)
    for grid in range(grids.count):
        steps = every_step(grids, grid)
        for row in range(len(steps.start)):
            one = steps.select(torch.tensor([row, row]))
            x = points(2)
            answer = partial(denoiser, grids) if grid == 0 else student
            student.learn(one, targets(grids, x, one, answer), x)
    x = points(3)
    whole = Steps(torch.zeros(3, dtype=torch.int64), torch.full((3,), 16))
    found = grids.move(x, student(x, whole), whole)
    expected = x
    for start in range(16):
        short = Steps(torch.full((3,), start), torch.ones(3, dtype=torch.int64))
        expected = grids.move(expected, denoiser(grids, expected, short), short)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("finest", "message"),
    [(12, "finest: 12 is not allowed; permitted: 1, 2, 4, 8"), (0, "finest: 0"), (512, "permitted: at most 500, bec")],
)
def test_grids_that_cannot_be_are_refused(finest: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grids(Diffusion(DiffusionConfig()), finest)
