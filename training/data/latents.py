"""Latents on disk: the autoencoder's answer for every training image, computed once and read through a memory map.

A record is the posterior's mean and standard deviation, so that training still draws a fresh sample of the
posterior at every step; both are in scaled units (unit standard deviation over the whole set).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.image_set import DataError

MOMENTS, LABELS, DESCRIPTION = "moments.npy", "labels.npy", "latents.json"


@dataclass(frozen=True)
class Description:
    """What `latents.json` holds."""

    count: int
    shape: tuple[int, int, int]  # of one latent, [C, h, w]
    data_fingerprint: str  # of the image set
    autoencoder: str  # digest of the release that encoded it


@dataclass(frozen=True)
class Latents:
    """Moments [N, 2, C, h, w] float32, mean and standard deviation, and class labels [N] int64."""

    moments: Tensor
    labels: Tensor
    description: Description


def write(
    root: Path, batches: Iterable[tuple[Tensor, Tensor]], labels: Tensor, *, data_fingerprint: str, autoencoder: str
) -> Latents:
    """Write batches of (mean, std), each [R, C, h, w], in the order of `labels` [N]. Holds one batch in memory."""
    root.mkdir(parents=True, exist_ok=True)
    (root / DESCRIPTION).unlink(missing_ok=True)  # it is written last: a folder with one is complete
    table, row, shape = None, 0, (0, 0, 0)
    for mean, std in batches:
        if table is None:
            channels, height, width = shape = (mean.shape[1], mean.shape[2], mean.shape[3])
            table = np.lib.format.open_memmap(
                root / MOMENTS, mode="w+", dtype=np.float32, shape=(len(labels), 2, channels, height, width)
            )
        table[row : row + len(mean)] = torch.stack([mean, std], dim=1).float().cpu().numpy()
        row += len(mean)
    if table is None or row != len(labels):
        raise DataError(f"data: {row} images were encoded, and there are {len(labels)} labels")
    table.flush()
    np.save(root / LABELS, labels.numpy())
    description = Description(row, shape, data_fingerprint, autoencoder)
    (root / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n")
    return read(root)


def read(root: Path) -> Latents:
    """Read latents. Raises DataError naming the field that does not fit, and what to do."""
    again = "encode them again with python -m training.encode_latents"
    if not (root / DESCRIPTION).is_file():
        raise DataError(f"data.latents: {root} holds no latents ({DESCRIPTION} is missing); {again}")
    try:
        document: dict[str, Any] = json.loads((root / DESCRIPTION).read_text())
        description = Description(**{**document, "shape": tuple(document["shape"])})
        moments = np.load(root / MOMENTS, mmap_mode="c")  # copy on write: torch wants memory that it may write to
        labels = np.load(root / LABELS)
    except KeyError as error:
        raise DataError(f"data.latents: {root / DESCRIPTION} lacks the field {error}; {again}") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"data.latents: {root} is damaged ({error}); {again}") from None
    expected = (description.count, 2, *description.shape)
    if moments.shape != expected or moments.dtype != np.float32:
        raise DataError(
            f"data.latents: shape: {root / MOMENTS} holds {moments.dtype} {moments.shape}, "
            f"{DESCRIPTION} says float32 {expected}; {again}"
        )
    if labels.shape != (description.count,):
        raise DataError(f"data.latents: count: {len(labels)} labels for {description.count} latents; {again}")
    return Latents(torch.from_numpy(moments), torch.from_numpy(labels), description)


def check(latents: Latents, *, data_fingerprint: str, autoencoder: str) -> None:
    """Raise DataError unless the latents are of this image set and of this autoencoder."""
    wanted = {"data_fingerprint": data_fingerprint, "autoencoder": autoencoder}
    for field, value in wanted.items():
        if (found := getattr(latents.description, field)) != value:
            raise DataError(
                f"data.latents: {field}: the latents are of {found[:12]}, this run uses {value[:12]}; "
                "encode them again with python -m training.encode_latents"
            )
