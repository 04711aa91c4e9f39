"""Gaussian data, for which the denoiser, every flow map and every run of DDIM have closed forms."""

import torch
from torch import Tensor

from training.recipes.self_consistency import Grids, Steps

MEAN, STD = 0.7, 0.4


def denoiser(grids: Grids, x: Tensor, steps: Steps) -> Tensor:
    """E[z_0 | x] of z_0 ~ N(MEAN, STD^2): what a perfect teacher answers."""
    alpha, sigma = grids.at(steps.start, x)
    return MEAN + STD**2 * alpha / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


def flow(grids: Grids, x: Tensor, steps: Steps) -> Tensor:
    """Where the probability flow of the Gaussian leads exactly: all its marginals are moved by their quantiles."""
    (a, s), (b, r) = grids.at(steps.start, x), grids.at(steps.end, x)
    return b * MEAN + (b**2 * STD**2 + r**2).sqrt() / (a**2 * STD**2 + s**2).sqrt() * (x - a * MEAN)


def points(rows: int) -> Tensor:
    return torch.randn(rows, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def every_step(grids: Grids, grid: int) -> Steps:
    count = grids.finest >> grid
    return grids.draw(torch.full((count,), grid), torch.arange(count) / count)


def ddim(grids: Grids, x: Tensor, steps: Steps) -> Tensor:
    """Where half steps of DDIM lead with the perfect teacher.

    With the angle of a level, tan(theta) = sigma / (alpha STD), a step is that of the flow times the cosine of the
    angle that it spans. The flow has infinitely many steps, whose cosines have the product 1.
    """
    theta = torch.atan2(grids.sigma, grids.alpha * STD)
    cosines = (theta[1:] - theta[:-1]).cos()
    factors = [cosines[a:b].prod() for a, b in zip(steps.start.tolist(), steps.end.tolist(), strict=True)]
    end, _ = grids.at(steps.end, x)
    return end * MEAN + torch.stack(factors).reshape(-1, 1, 1, 1) * (flow(grids, x, steps) - end * MEAN)


class Table:
    """A student without capacity limits for this data: an affine answer for each step of each grid."""

    def __init__(self, grids: Grids) -> None:
        self.grids = grids
        self.answers: dict[tuple[int, int], tuple[float, float]] = {}

    def __call__(self, x: Tensor, steps: Steps) -> Tensor:
        rows = [self.answers[pair] for pair in zip(steps.start.tolist(), steps.length.tolist(), strict=True)]
        slope, offset = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2, 1, 1, 1).unbind(1)
        return slope * x + offset

    def learn(self, steps: Steps, target: Tensor, x: Tensor) -> None:
        """Fit the answer of one step, given twice, exactly to targets at two points."""
        slope = float((target[1] - target[0])[0, 0, 0] / (x[1] - x[0])[0, 0, 0])
        self.answers[int(steps.start[0]), int(steps.length[0])] = slope, float((target[0] - slope * x[0])[0, 0, 0])
