"""Batches whose content is a function of (seed, step) alone, so that a resumed run sees what it would have seen."""

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

    read: makes a batch of rows, with a generator for the chances that each of them takes: flips, crops, masks.
    count: rows there are. batch_size: rows of a step, over all ranks; rank r of `ranks` is given its r-th part.
    Raises ValueError for a batch size that cannot be.
    """

    def __init__(
        self, read: Read, *, count: int, batch_size: int, seed: int, steps: int, rank: int = 0, ranks: int = 1
    ) -> None:
        if not 1 <= batch_size <= count:
            raise ValueError(f"batch_size: {batch_size} is not allowed; permitted: 1 to {count}, the images there are")
        if batch_size % ranks:
            raise ValueError(f"batch_size: {batch_size} is not allowed; permitted: multiples of {ranks}, the ranks")
        self.read, self.count, self.batch_size, self.seed, self.steps = read, count, batch_size, seed, steps
        share = batch_size // ranks
        self.mine = range(rank * share, (rank + 1) * share)  # of the rows of a step
        self._drawn: tuple[int, NDArray[np.int64]] | None = None  # the order of the latest epoch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rows = self.indices(step)[self.mine.start : self.mine.stop]
        return self.read(rows, [row_generator(self.seed, step, position) for position in self.mine])

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which rows make the batch of `step`: [batch_size]. Rows left over at an epoch's end are dropped."""
        epoch, position = divmod(step, self.count // self.batch_size)
        return self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._drawn is None or self._drawn[0] != epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._drawn = epoch, generator.permutation(self.count)
        return self._drawn[1]


def row_generator(seed: int, step: int, position: int) -> Generator:
    """The generator of one row of a step's batch, the same on whichever rank it falls."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, position])))


def keep_batch(batch: T) -> T:
    """Return a batch unchanged: as a DataLoader's `collate_fn`, so that arrays in requests do not become tensors."""
    return batch
