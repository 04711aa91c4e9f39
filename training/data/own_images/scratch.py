"""A scratch file of arrays of one shape: appended in any order, read back in another."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Scratch:
    """A growing file of uint8 arrays of `shape`. It is created with the first array."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape, self.count = path, shape, 0
        self.file: Any = None

    def append(self, array: NDArray[np.uint8]) -> int:
        """Append an array and return its row."""
        if self.file is None:
            self.file = self.path.open("wb")
        self.file.write(np.ascontiguousarray(array))
        self.count += 1
        return self.count - 1

    def close(self) -> None:
        """Flush and close the file."""
        if self.file is not None:
            self.file.close()

    def rows(self, order: list[int]) -> "Rows":
        """Return the arrays of these rows, in this order, read on access."""
        self.close()
        table = np.memmap(self.path, np.uint8, "r", shape=(self.count, *self.shape))
        return Rows(table, np.array(order, dtype=np.int64))


class Rows:
    """An array as `image_set.write` uses it: a shape, a length, and rows by number."""

    def __init__(self, table: NDArray[np.uint8], order: NDArray[np.int64]) -> None:
        self.table, self.order = table, order
        self.shape = (len(order), *table.shape[1:])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.asarray(self.table[self.order[rows]])
