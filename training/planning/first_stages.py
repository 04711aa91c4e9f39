"""Measures published first stages on a user's images, and chooses the best one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from training.data.own_images.looks import THUMBNAIL, Look
from training.metrics.pixels import psnr
from training.model.autoencoder import Autoencoder
from training.model.pixels import to_unit

FITS = 25.0  # dB of PSNR from which on a published first stage is used instead of a new one
LEAST_LATENTS = 4  # positions of a side
MOST = 64  # pictures that are reconstructed
BATCH = 16


@dataclass(frozen=True)
class Published:
    """A published first stage. reference: NAME@VERSION. psnr: the mean over some of the pictures, in dB."""

    reference: str
    autoencoder: Autoencoder
    psnr: float

    @property
    def fits(self) -> bool:
        """Whether it reconstructs the pictures well enough."""
        return self.psnr >= FITS


def why_not(autoencoder: Autoencoder, size: int, channels: int) -> str | None:
    """Return why a first stage cannot encode pictures of a size; None if it can."""
    config = autoencoder.config
    if config.regularisation == "identity":
        return "its latents are the pixels"
    if config.image_channels != channels:
        return f"it has {config.image_channels} channel{'s' * (config.image_channels != 1)}, the pictures {channels}"
    if size % config.factor or size // config.factor < LEAST_LATENTS:
        return f"it needs multiples of {config.factor} pixels, at least {LEAST_LATENTS * config.factor}, not {size}"
    return None


@torch.inference_mode()
def measure_psnr(autoencoder: Autoencoder, looks: Sequence[Look], size: int) -> float:
    """Return the mean PSNR of reconstructions in dB, of pictures in [-1, 1], evenly chosen.

    Pictures are looked at in at most 96 pixels, in which larger sizes are measured too.
    """
    side = min(size, THUMBNAIL - THUMBNAIL % autoencoder.config.factor)
    mode = "L" if autoencoder.config.image_channels == 1 else "RGB"
    chosen = looks[:: max(1, -(-len(looks) // MOST))]
    pixels = np.stack([
        np.asarray(
            Image.fromarray(one.thumbnail).convert(mode).resize((side, side), Image.Resampling.LANCZOS)
        ).reshape(side, side, -1)
        for one in chosen
    ])  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    autoencoder = autoencoder.to(device).eval()
    found = []
    for part in torch.split(to_unit(torch.from_numpy(pixels)), BATCH):
        images = part.to(device)
        found.append(psnr(autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1), images).clamp(max=100).cpu())
    return float(torch.cat(found).mean())
