"""Encodes the training images of a set into latents."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from training.data import latents
from training.data.image_set import DataError, ImageSet
from training.model.autoencoder import Autoencoder
from training.model.pixels import to_unit

BATCH = 32


def encode(
    autoencoder: Autoencoder, images: ImageSet, output: Path, *, digest: str, flip: bool = False
) -> latents.Latents:
    """Write the posterior mean and standard deviation of each training image, in scaled units.

    Of a set that keeps aspect ratios, whole images are encoded. With `flip`, mirrored images are encoded as well.
    Raises DataError.
    """
    check_images(autoencoder, images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = autoencoder.to(device).eval()
    count = len(images.rows("train"))
    console = Console()

    @torch.inference_mode()
    def moments(pixels: NDArray[np.uint8], count: int) -> Iterator[tuple[Tensor, Tensor]]:
        starts = range(0, count, BATCH)
        for start in track(starts, "encoding", console=console, transient=True, disable=not console.is_terminal):
            part = to_unit(torch.from_numpy(np.array(pixels[start : min(start + BATCH, count)]))).to(device)
            views = [part, part.flip(-1)] if flip else [part]
            encoded = [autoencoder.moments(view) for view in views]
            mean, std = (torch.stack(part, dim=1) for part in zip(*encoded, strict=True))
            yield mean, std

    about = {"data_fingerprint": images.description.fingerprint, "autoencoder": digest}
    if images.whole is None:
        return latents.write(output, moments(images.images, count), count=count, **about)
    factor, whole = autoencoder.config.factor, images.whole
    counts = np.bincount(whole.bucket[:count], minlength=len(whole.sizes)).tolist()  # the training images come first
    parts = [
        (number, height // factor, width // factor) for number, (width, height) in zip(counts, whole.sizes, strict=True)
    ]
    return latents.write_buckets(
        output, parts, (moments(array, number) for array, number in zip(whole.arrays, counts, strict=True)),
        channels=autoencoder.config.latent_channels, flips=1 + flip, **about,
    )  # fmt: skip


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
    for size in () if images.whole is None else images.whole.sizes:
        if any(side % config.factor for side in size):
            raise DataError(
                f"data.bucket_step: images of {size[0]}x{size[1]} pixels; this autoencoder needs multiples of "
                f"{config.factor}"
            )
