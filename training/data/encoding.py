"""Encodes the training images of a set into latents."""

from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from training.data import latents
from training.data.image_set import DataError, ImageSet
from training.model.autoencoder import Autoencoder

BATCH = 32


def encode(
    autoencoder: Autoencoder, images: ImageSet, output: Path, *, digest: str, flip: bool = False
) -> latents.Latents:
    """Write the posterior mean and standard deviation of each training image, in scaled units.

    With `flip`, mirrored images are encoded as well. Raises DataError.
    """
    check_images(autoencoder, images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = autoencoder.to(device).eval()
    rows = images.rows("train")
    starts = range(0, len(rows), BATCH)
    console = Console()

    @torch.inference_mode()
    def moments() -> Iterator[tuple[Tensor, Tensor]]:
        for start in track(starts, "encoding", console=console, transient=True, disable=not console.is_terminal):
            pixels = images.pixels(rows[start : start + BATCH]).to(device)
            views = [pixels, pixels.flip(-1)] if flip else [pixels]
            encoded = [autoencoder.moments(view) for view in views]
            mean, std = (torch.stack(part, dim=1) for part in zip(*encoded, strict=True))
            yield mean, std

    fingerprint = images.description.fingerprint
    return latents.write(output, moments(), count=len(rows), data_fingerprint=fingerprint, autoencoder=digest)


def check_images(autoencoder: Autoencoder, images: ImageSet) -> None:
    """Raise DataError unless the autoencoder accepts the images."""
    config = autoencoder.config
    if images.channels != config.image_channels:
        raise DataError(
            f"data.root: images of {images.channels} channels; this autoencoder needs {config.image_channels}"
        )
    if images.image_size % config.factor:
        raise DataError(
            f"data.root: images of {images.image_size} pixels; this autoencoder needs multiples of {config.factor}"
        )
