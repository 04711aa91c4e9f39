"""Random numbers as a function of (seed, step), so that a resumed run draws the same ones."""

import numpy as np
import torch
from torch import Tensor


class StepDraws:
    """The random numbers of one training step, for all rows of its batch. Every rank draws all and uses its own.

    So the numbers of a row depend neither on the number of ranks nor on the number of parts of a batch.
    """

    def __init__(self, seed: int, step: int, rows: int, device: torch.device | str = "cpu") -> None:
        self.rows = rows
        self.generator = torch.Generator(device).manual_seed(mix_seeds(seed, step))
        self._host = self.generator
        if self.generator.device.type != "cpu":
            self._host = torch.Generator().manual_seed(mix_seeds(seed, step))

    def normal(self, *shape: int) -> Tensor:
        """Draw from N(0, I), [rows, *shape]."""
        return torch.randn(self.rows, *shape, generator=self.generator, device=self.generator.device)

    def uniform(self) -> Tensor:
        """Draw uniformly from [0, 1), [rows]."""
        return torch.rand(self.rows, generator=self.generator, device=self.generator.device)

    def uniform_on_host(self) -> Tensor:
        """Draw as `uniform` does, on the CPU: what the host decides by must not wait for the device."""
        return torch.rand(self.rows, generator=self._host)


def seed_dropout(seed: int, step: int, rank: int, part: int) -> None:
    """Seed the global generators for one part of a step, because dropout layers draw from them."""
    torch.manual_seed(mix_seeds(seed, step, rank, part))


def mix_seeds(*numbers: int) -> int:
    """Combine several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
