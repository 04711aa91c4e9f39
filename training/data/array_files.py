"""Writes arrays of bytes to files of NumPy's format in parts."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COPY_BYTES = 64 * 2**20  # per read and write


def copy_rows(path: Path, array: NDArray[np.uint8], order: NDArray[np.int64], digest: "hashlib._Hash") -> None:
    """Write `array[order]` to `path` in parts, and add it to the digest. Raises OSError, for example on a full disk.

    The file is not written through a memory map, in which a full disk kills the process.
    """
    shape = (len(order), *array.shape[1:])
    step = max(1, COPY_BYTES // max(1, array[0].nbytes))
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, len(order), step):
            part = np.ascontiguousarray(array[order[start : start + step]])
            file.write(part.data)
            digest.update(part.data)
