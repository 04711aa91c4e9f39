"""Latents on disk: the autoencoder's answer for every training image, computed once and read through a memory map.

A record is the posterior's mean and standard deviation, so that training still draws a fresh sample of the
posterior at every step; both are in scaled units (unit standard deviation over the whole set). A set that is trained
on mirrored images too has a second such pair for each.
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
    """What `latents.json` holds."""

    count: int
    shape: tuple[int, int, int]  # of one latent, [C, h, w]
    data_fingerprint: str  # of the image set
    autoencoder: str  # digest of the release that encoded it
    flips: int = 1  # 2: as it is, and mirrored

    def is_of(self, *, data_fingerprint: str, autoencoder: str, flips: int) -> bool:
        """Whether the latents are of this image set and of this autoencoder, with as many flips."""
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
    """Write batches of (mean, std), each [R, flips, C, h, w], `count` rows together. Holds one batch in memory."""
    root.mkdir(parents=True, exist_ok=True)
    (root / DESCRIPTION).unlink(missing_ok=True)  # it is written last: a folder with one is complete
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
        raise DataError(f"data: {row} images were encoded, and there are {count}")
    table.flush()
    flips, _, channels, height, width = table.shape[1:]
    description = Description(count, (channels, height, width), data_fingerprint, autoencoder, flips)
    (root / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n")
    return read(root)


def read(root: Path) -> Latents:
    """Read latents, or those that `root` stands for. Raises DataError naming what does not fit, and what to do."""
    again = "encode them again with python -m training.encode_latents"
    root = pointer.followed(root)
    if not (root / DESCRIPTION).is_file():
        raise DataError(f"data.latents: {root} holds no latents ({DESCRIPTION} is missing); {again}")
    try:
        document: dict[str, Any] = json.loads((root / DESCRIPTION).read_text())
        description = Description(**{**document, "shape": tuple(document["shape"])})
        moments = np.load(root / MOMENTS, mmap_mode="c")  # copy on write: torch wants memory that it may write to
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
    """Raise DataError unless the latents are of this image set and of this autoencoder, with as many flips."""
    wanted = {"data_fingerprint": data_fingerprint, "autoencoder": autoencoder}
    for field, value in wanted.items():
        if (found := getattr(latents.description, field)) != value:
            raise DataError(
                f"data.latents: {field}: the latents are of {found[:12]}, this run uses {value[:12]}; "
                "encode them again with python -m training.encode_latents"
            )
    if latents.description.flips != flips:
        raise DataError(
            f"data.latents: flips: the latents have {latents.description.flips}, data.flip asks for {flips}; "
            "encode them again with python -m training.encode_latents"
        )
