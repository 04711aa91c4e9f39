"""Progressive distillation: the student learns one grid after another, the finest first (Salimans & Ho 2022, alg. 2).

A stage belongs to each grid, and all stages have equal numbers of steps. The targets of stage k are two half steps of
the student as it was when the stage began, or of the teacher for k = 0. The paper keeps one network for each grid;
here the length of the step is an input of one network, so half of the rows of a stage repeat the earlier grids. The
learning rate falls in each stage, because each is a training of its own.
"""

import torch
from torch import Tensor


def stage_at(step: int, steps: int, count: int) -> int:
    """Return the stage, 0 to `count` - 1, of a step of a training of `steps` steps."""
    return min(count - 1, step * count // steps)


def steps_of_stage(stage: int, steps: int, count: int) -> range:
    """Return the steps of a stage of a training of `steps` steps."""
    first, end = (-(-number * steps // count) for number in (stage, stage + 1))
    return range(first, end)


def begins_stage(step: int, steps: int, count: int) -> bool:
    """Return whether a step is the first of its stage."""
    return step == 0 or stage_at(step, steps, count) != stage_at(step - 1, steps, count)


def choose_grids(stage: int, step: int, rows: int) -> Tensor:
    """Return the grid of each row, int64 [rows], 0 the finest: every other row has the stage's, the rest earlier ones.

    step: of the training, so that each row takes turns.
    """
    turn = torch.arange(rows) + step
    earlier = turn // 2 % max(1, stage)
    return torch.where(turn % 2 == 0, stage, earlier)
