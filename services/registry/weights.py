"""A check of weights that needs neither torch nor memory: every number of a safetensors file is finite.

The format: 8 bytes with the length of the header, a JSON header with each tensor's dtype and bytes, then the data.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.model.release import ReleaseError

SUFFIX = ".safetensors"
READ_BYTES = 2**22
MAX_HEADER_BYTES = 100 * 2**20
# A floating-point number is infinite or no number if all bits of its exponent are set.
EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),  # it has no infinity, and one magnitude that is no number
}


def check_finite(folder: Path) -> None:
    """Read the weights of a release folder. Raises ReleaseError naming the first tensor that is not finite."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            tensor = _find_not_finite(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReleaseError(f"{path}: not a safetensors file ({error}); export the release again") from None
        if tensor is not None:
            raise ReleaseError(
                f"{path}: tensor {tensor!r} contains NaN or infinity; permitted: finite weights. "
                "Train again from an earlier checkpoint, with a lower learning rate"
            )


def _find_not_finite(path: Path) -> str | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
        for name, tensor in header.items():
            if name == "__metadata__" or tensor["dtype"] not in EXPONENTS:
                continue
            kind, mask = EXPONENTS[tensor["dtype"]]
            start, stop = tensor["data_offsets"]
            file.seek(8 + length + start)
            remaining = stop - start
            while remaining > 0:
                chunk = file.read(min(READ_BYTES, remaining))
                if not chunk:
                    raise ValueError(f"the data of {name!r} is missing")
                if bool((np.frombuffer(chunk, kind) & mask == mask).any()):
                    return name
                remaining -= len(chunk)
    return None
