"""Batches whose content is a function of (seed, step) alone, so that a resumed run sees what it would have seen."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset


class Batches(IterableDataset[dict[str, Tensor]]):
    """Endless shuffled epochs over tensors of equal length.

    tensors: fields of the batch, each [N, ...]. batch_size: rows of a batch, at most N.
    start: the step that the next iteration begins at.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, batch_size: int, seed: int, start: int = 0) -> None:
        self.tensors = dict(tensors)
        self.count = len(next(iter(self.tensors.values())))
        if not 1 <= batch_size <= self.count:
            raise ValueError(
                f"batch_size: {batch_size} is not allowed; permitted: 1 to {self.count}, the images there are"
            )
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self._drawn: tuple[int, NDArray[np.int64]] | None = None  # the order of the latest epoch

    def indices(self, step: int) -> Tensor:
        """Which rows make the batch of `step`: [batch_size]. Rows left over at an epoch's end are dropped."""
        epoch, position = divmod(step, self.count // self.batch_size)
        return torch.from_numpy(self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._drawn is None or self._drawn[0] != epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._drawn = epoch, generator.permutation(self.count)
        return self._drawn[1]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        step = self.start
        while True:
            rows = self.indices(step)
            yield {name: tensor[rows] for name, tensor in self.tensors.items()}
            step += 1
