"""Latents on disk: the encoded training images, computed once and read through a memory map.

A record is the posterior's mean and standard deviation in scaled units (unit standard deviation over the whole set),
so that training samples the posterior at every step. With mirrored images there is a second pair for each image.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data import pointer
from training.data.image_set import DataError

MOMENTS, DESCRIPTION = "moments.npy", "latents.json"


@dataclass(frozen=True)
class Description:
    """The content of `latents.json`."""

    count: int
    shape: tuple[int, int, int]  # of one latent, [C, h, w]
    data_fingerprint: str  # of the image set
    autoencoder: str  # digest of the release
    flips: int = 1  # 2: unmirrored and mirrored

    def matches(self, *, data_fingerprint: str, autoencoder: str, flips: int) -> bool:
        """Return whether the latents belong to this image set and this autoencoder, with this number of flips."""
        return (self.data_fingerprint, self.autoencoder, self.flips) == (data_fingerprint, autoencoder, flips)


@dataclass(frozen=True)
class Latents:
    """Moments [N, flips, 2, C, h, w] float32: mean and standard deviation."""

    moments: Tensor
    description: Description


def write(
    root: Path,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    count: int,
    data_fingerprint: str,
    autoencoder: str,
) -> Latents:
    """Write batches of (mean, std), each [R, flips, C, h, w], `count` rows in total. Holds one batch in memory."""
    root.mkdir(parents=True, exist_ok=True)
    (root / DESCRIPTION).unlink(missing_ok=True)  # written last, so a folder that has one is complete
    table, row = None, 0
    for mean, std in batches:
        if table is None:
            flips, *shape = mean.shape[1:]
            table = np.lib.format.open_memmap(
                root / MOMENTS, mode="w+", dtype=np.float32, shape=(count, flips, 2, *shape)
            )
        table[row : row + len(mean)] = torch.stack([mean, std], dim=2).float().cpu().numpy()
        row += len(mean)
    if table is None or row != count:
        raise DataError(f"data: {row} of {count} images were encoded")
    table.flush()
    flips, _, channels, height, width = table.shape[1:]
    description = Description(count, (channels, height, width), data_fingerprint, autoencoder, flips)
    (root / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n")
    return read(root)


def read(root: Path) -> Latents:
    """Read the latents in a folder, or in the one that it points to. Raises DataError that says what to do."""
    again = "encode them again with python -m training.encode_latents"
    root = pointer.resolve(root)
    if not (root / DESCRIPTION).is_file():
        raise DataError(f"data.latents: {root} holds no latents ({DESCRIPTION} is missing); {again}")
    try:
        document: dict[str, Any] = json.loads((root / DESCRIPTION).read_text())
        description = Description(**{**document, "shape": tuple(document["shape"])})
        moments = np.load(root / MOMENTS, mmap_mode="c")  # copy on write, because torch requires writable memory
    except KeyError as error:
        raise DataError(f"data.latents: {root / DESCRIPTION} lacks the field {error}; {again}") from None
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise DataError(f"data.latents: {root} is damaged ({error}); {again}") from None
    expected = (description.count, description.flips, 2, *description.shape)
    if moments.shape != expected or moments.dtype != np.float32:
        raise DataError(
            f"data.latents: shape: {root / MOMENTS} holds {moments.dtype} {moments.shape}, "
            f"{DESCRIPTION} says float32 {expected}; {again}"
        )
    return Latents(torch.from_numpy(moments), description)


def check(latents: Latents, *, data_fingerprint: str, autoencoder: str, flips: int) -> None:
    """Raise DataError unless the latents belong to this image set and this autoencoder, with this number of flips."""
    wanted = {"data_fingerprint": data_fingerprint, "autoencoder": autoencoder}
    for field, value in wanted.items():
        if (found := getattr(latents.description, field)) != value:
            raise DataError(
                f"data.latents: {field}: the latents belong to {found[:12]}, this run uses {value[:12]}; "
                "encode them again with python -m training.encode_latents"
            )
    if latents.description.flips != flips:
        raise DataError(
            f"data.latents: flips: the latents have {latents.description.flips}, data.flip needs {flips}; "
            "encode them again with python -m training.encode_latents"
        )
