"""Encoded images: the posterior moments of every training image, written once and read through a memory map.

Training the diffusion model from them needs no encoder, no decoder and no image decoding.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data.image_set import DataError

MOMENTS, LABELS, DESCRIPTION = "moments.npy", "labels.npy", "latents.json"


@dataclass(frozen=True)
class Description:
    """What `latents.json` holds."""

    data_fingerprint: str
    autoencoder_digest: str


@dataclass(frozen=True)
class Latents:
    """moments [N, 2, C, h, w] float32: mean and standard deviation in scaled units; labels [N] int64."""

    moments: Tensor
    labels: Tensor
    description: Description


def write(root: Path, moments: Tensor, labels: Tensor, description: Description) -> None:
    """Write fixed-size records under `root`, the description last: a folder without it is not complete."""
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / MOMENTS, moments.numpy())
    np.save(root / LABELS, labels.numpy())
    (root / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n")


def read(root: Path, *, autoencoder_digest: str) -> Latents:
    """Map the records. Raises DataError when there are none, or when another autoencoder made them."""
    if not (root / DESCRIPTION).is_file():
        raise DataError(
            f"data.latents: {root} holds no latents ({DESCRIPTION} is missing); run training.encode_latents"
        )
    description = Description(**json.loads((root / DESCRIPTION).read_text()))
    if description.autoencoder_digest != autoencoder_digest:
        raise DataError(
            f"data.latents: {root} was encoded by autoencoder {description.autoencoder_digest[:12]}, "
            f"not by {autoencoder_digest[:12]}; encode it again"
        )
    # Copy-on-write: torch wants writable memory, and nobody writes.
    moments = torch.from_numpy(np.load(root / MOMENTS, mmap_mode="c"))
    return Latents(moments, torch.from_numpy(np.load(root / LABELS)), description)
