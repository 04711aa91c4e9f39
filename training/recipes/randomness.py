"""Random numbers as a function of (seed, step), so that a resumed run draws what it would have drawn."""

import numpy as np
import torch
from torch import Tensor


class StepDraws:
    """The random numbers of one training step, for all rows of its batch: every rank draws all and uses its own.

    So neither the number of ranks nor that of the parts a batch is taken in changes what a row is given.
    """

    def __init__(self, seed: int, step: int, rows: int, device: torch.device | str = "cpu") -> None:
        self.rows = rows
        self.generator = torch.Generator(device).manual_seed(mixed(seed, step))

    def normal(self, *shape: int) -> Tensor:
        """N(0, I), [rows, *shape]."""
        return torch.randn(self.rows, *shape, generator=self.generator, device=self.generator.device)

    def uniform(self) -> Tensor:
        """In [0, 1), [rows]."""
        return torch.rand(self.rows, generator=self.generator, device=self.generator.device)


def seed_dropout(seed: int, step: int, rank: int, part: int) -> None:
    """Seed the global generators for one part of a step: dropout layers draw from them and take no other."""
    torch.manual_seed(mixed(seed, step, rank, part))


def mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
