"""Batches that are a function of (seed, step), so that a resumed run sees the same batches."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import Dataset

Batch = dict[str, Any]
T = TypeVar("T")
Read = Callable[[NDArray[np.int64], Sequence[Generator]], Batch]


class Batches(Dataset[Batch]):
    """The batch of each step: endless shuffled epochs, as a map from step to batch.

    read: reads a batch of rows, with a generator for each row's flips, crops and masks. count: number of rows.
    batch_size: rows of a step, over all ranks; rank r of `ranks` gets the r-th part.
    Raises ValueError for a batch size that is not allowed.
    """

    def __init__(
        self, read: Read, *, count: int, batch_size: int, seed: int, steps: int, rank: int = 0, ranks: int = 1
    ) -> None:
        if not 1 <= batch_size <= count:
            raise ValueError(f"batch_size: {batch_size} is not allowed; permitted: 1 to {count}, the images of the set")
        if batch_size % ranks:
            raise ValueError(
                f"batch_size: {batch_size} is not allowed; permitted: multiples of {ranks}, the number of ranks"
            )
        self.read, self.count, self.batch_size, self.seed, self.steps = read, count, batch_size, seed, steps
        share = batch_size // ranks
        self.positions = range(rank * share, (rank + 1) * share)  # of this rank in the rows of a step
        self._epoch_order: tuple[int, NDArray[np.int64]] | None = None  # the latest epoch and its order

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rows = self.indices(step)[self.positions.start : self.positions.stop]
        return self.read(rows, [row_generator(self.seed, step, position) for position in self.positions])

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the rows of the batch of `step`, [batch_size]. An incomplete last batch of an epoch is dropped."""
        epoch, position = divmod(step, self.count // self.batch_size)
        return self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._epoch_order = epoch, generator.permutation(self.count)
        return self._epoch_order[1]


def row_generator(seed: int, step: int, position: int) -> Generator:
    """Return the generator of one row of a step's batch, which does not depend on the rank."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, position])))


def keep_batch(batch: T) -> T:
    """Return a batch unchanged: as a DataLoader's `collate_fn`, so that arrays in requests do not become tensors."""
    return batch
