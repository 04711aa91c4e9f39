"""Targets of few-step distillation: one step leads where two half steps lead (Frans et al. 2024, eq. 4).

The grids have 1, 2, 4, ... steps, with the timesteps of "trailing" spacing, so each grid is a part of the next finer
one. On the finest grid the teacher takes the half steps, on the others a moving average of the student, whose half
steps are whole steps of the next finer grid.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from training.model import spacing
from training.model.diffusion import Diffusion

# Returns the estimates of z_0, [R, ...], of x [R, ...] for steps.
Answer = Callable[[Tensor, "Steps"], Tensor]


class Steps(NamedTuple):
    """A step of each row, in levels of `Grids`."""

    start: Tensor  # int64 [R]
    length: Tensor  # int64 [R]: 2 on the finest grid, whose half steps the teacher takes

    @property
    def end(self) -> Tensor:
        """The level to which each step leads, int64 [R]."""
        return self.start + self.length

    def select(self, rows: Tensor) -> "Steps":
        """Return the steps of some rows, int64 [S]."""
        return Steps(self.start[rows], self.length[rows])


class Grids:
    """The grids of 1, 2, 4, ... `finest` steps, and the levels of their half steps.

    Raises ValueError if `finest` is no power of two, or the schedule has no timestep for each half step.
    """

    def __init__(self, diffusion: Diffusion, finest: int, device: torch.device | str = "cpu") -> None:
        half_steps = 2 * finest
        if finest < 1 or finest & (finest - 1):
            raise ValueError(f"finest: {finest} is not allowed; permitted: 1, 2, 4, 8, ...")
        if half_steps > diffusion.timesteps:
            raise ValueError(f"finest: {finest} is not allowed; permitted: at most {diffusion.timesteps // 2}, because "
                             f"the schedule has {diffusion.timesteps} timesteps")  # fmt: skip
        levels = torch.tensor(spacing.trailing(diffusion, half_steps), dtype=torch.float64)
        self.t, self.alpha, self.sigma = (column.to(device) for column in levels.unbind(1))  # [2 finest + 1] each
        self.finest, self.count = finest, finest.bit_length()
        self._shares = torch.cat([self.t[:-1], self.t.new_tensor([-1.0])]) / diffusion.timesteps  # as in `shortcut`

    def draw(self, grid: Tensor, share: Tensor) -> Steps:
        """Return a step of each row: grid int64 [R], 0 the finest, share [R] in [0, 1) of the way along it."""
        length = 2 << grid
        return Steps((share.double() * (2 * self.finest / length)).long() * length, length)

    def timesteps(self, steps: Steps) -> Tensor:
        """Return the timestep at which each step begins, int64 [R]."""
        return self.t[steps.start].long()

    def share(self, steps: Steps) -> Tensor:
        """Return the share of the schedule that each step spans, float32 [R], as an input of the network."""
        return (self._shares[steps.start] - self._shares[steps.end]).float()

    def at(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma of levels, int64 [R]: [R, 1, ...] each, with the dimensions and dtype of `like`."""
        shape = (-1, *[1] * (like.dim() - 1))
        return self.alpha[level].to(like).reshape(shape), self.sigma[level].to(like).reshape(shape)

    def move(self, x: Tensor, estimate: Tensor, steps: Steps) -> Tensor:
        """Return x after a step along an estimate of z_0: x_b = alpha_b D + sigma_b / sigma_a (x - alpha_a D)."""
        keep, gain = self._coefficients(x, steps)
        return keep * x + gain * estimate

    def leading(self, x: Tensor, end: Tensor, steps: Steps) -> Tensor:
        """Return the estimate of z_0 along which one step leads from x to `end`; it inverts `move`."""
        keep, gain = self._coefficients(x, steps)
        return (end - keep * x) / gain

    def _coefficients(self, x: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        (a, s), (b, r) = self.at(steps.start, x.double()), self.at(steps.end, x.double())
        keep = r / s
        return keep.to(x), (b - a * keep).to(x)  # the difference of two numbers that are close in short steps


@torch.no_grad()
def targets(grids: Grids, x: Tensor, steps: Steps, answer: Answer) -> Tensor:
    """Return the estimate of z_0 that leads in one step where two half steps of `answer` lead: [R, ...]."""
    half = steps.length // 2
    first, second = Steps(steps.start, half), Steps(steps.start + half, half)
    middle = grids.move(x, answer(x, first), first)
    return grids.leading(x, grids.move(middle, answer(middle, second), second), steps)
