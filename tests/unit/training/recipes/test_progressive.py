"""The stages of progressive distillation, and their targets against Gaussian data."""

import copy
from functools import partial

import pytest
import torch

from tests.support.gaussian import Table, ddim, denoiser, every_step, points
from training.model.diffusion import Diffusion, DiffusionConfig
from training.recipes import progressive
from training.recipes.self_consistency import Grids, targets

SCHEDULES = {
    "vp": DiffusionConfig(),
    "zero-terminal-snr": DiffusionConfig(parameterisation="v", zero_terminal_snr=True),
    "flow": DiffusionConfig(schedule="flow", parameterisation="flow"),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_stage_ends_with_a_student_that_goes_where_ddim_goes(schedule: str) -> None:
    """A student that meets its targets exactly takes each step as the product of cosines says, in every stage."""
    grids = Grids(Diffusion(SCHEDULES[schedule]), 16)
    steps = 2 * grids.count
    student = Table(grids)
    frozen = student
    for step in range(steps):
        if progressive.begins_stage(step, steps, grids.count):
            frozen = copy.deepcopy(student)
        stage = progressive.stage_at(step, steps, grids.count)
        for grid in set(progressive.choose_grids(stage, step, 16).tolist()):
            every = every_step(grids, grid)
            for row in range(len(every.start)):
                one = every.select(torch.tensor([row, row]))
                answer = partial(denoiser, grids) if grid == 0 else frozen
                student.learn(one, targets(grids, points(2), one, answer), points(2))
        every = every_step(grids, stage)
        x = points(len(every.start))
        torch.testing.assert_close(grids.move(x, student(x, every), every), ddim(grids, x, every), rtol=1e-9, atol=1e-9)
    assert stage == grids.count - 1


def test_stages_have_equal_numbers_of_steps() -> None:
    stages = [progressive.stage_at(step, 23, 5) for step in range(23)]
    assert stages == sorted(stages)
    assert torch.tensor(stages).bincount().tolist() == [5, 5, 4, 5, 4]
    firsts = [step for step in range(23) if progressive.begins_stage(step, 23, 5)]
    assert firsts == [0, 5, 10, 14, 19]
    assert [progressive.steps_of_stage(stages[step], 23, 5).start for step in firsts] == firsts
    assert progressive.steps_of_stage(4, 23, 5).stop == 23
    assert progressive.stage_at(30, 23, 5) == 4  # a training that is given more steps than it was planned for


def test_half_of_the_rows_have_the_grid_of_the_stage_and_each_row_takes_turns() -> None:
    assert progressive.choose_grids(0, 7, 6).tolist() == [0] * 6
    grids = torch.stack([progressive.choose_grids(3, step, 12) for step in range(12)])
    for rows in (grids, grids.T):
        for row in rows:
            assert row.bincount().tolist() == [2, 2, 2, 6]
