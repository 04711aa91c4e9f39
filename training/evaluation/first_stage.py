"""Evaluates an autoencoder on its reconstructions of held-out images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data import shapes
from training.data.image_set import ImageSet
from training.evaluation.fidelity import LEAST
from training.evaluation.networks import Networks, compute_features
from training.metrics import conditions, mean_psnr, psnr, ssim
from training.metrics.distributions import frechet_distance
from training.metrics.pixels import MOST
from training.model.autoencoder import Autoencoder
from training.previews import contact_sheet

PAIRS = 16  # on the sheet of reconstructions
BATCH = 40
SMALLEST = 11  # side of SSIM's window


@torch.inference_mode()
def score(autoencoder: Autoencoder, images: ImageSet, output: Path, networks: Networks) -> dict[str, Any]:
    """Return PSNR (dB), SSIM and LPIPS of reconstructions of held-out images, and the Fréchet distance of both sets.

    Draws images above their reconstructions as `reconstructions.png`. The use of a codebook is measured on all images.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = autoencoder.to(device)
    rows = images.rows("held_out")
    held_out = images.pixels(rows)
    reconstructed = torch.cat([reconstruct(autoencoder, part.to(device)) for part in torch.split(held_out, BATCH)])
    pairs_sheet = torch.cat([held_out[:PAIRS], reconstructed[:PAIRS]])
    contact_sheet.save(output / "reconstructions.png", pairs_sheet, columns=min(PAIRS, len(held_out)))
    scores = measure(reconstructed, held_out, images, networks)
    if images.description.box_classes == shapes.CLASSES:
        scores |= condition_accuracy(images, rows, reconstructed)
    if autoencoder.config.regularisation == "vq":
        scores |= codebook_use(autoencoder, images)
    return scores


def measure(reconstructed: Tensor, held_out: Tensor, images: ImageSet, networks: Networks) -> dict[str, Any]:
    """Return how far the reconstructions of all held-out images are from them, both [R, C, H, W] in [-1, 1]."""
    worst = float(psnr(reconstructed, held_out).clamp(max=MOST).min())
    scores: dict[str, Any] = {
        "psnr": mean_psnr(reconstructed, held_out), "psnr_worst": worst, "images": len(held_out),
    }  # fmt: skip
    if images.image_size >= SMALLEST:
        scores["ssim"] = float(ssim(reconstructed, held_out).mean())
    if networks.perceptual is not None:
        pairs = zip(torch.split(held_out, BATCH), torch.split(reconstructed, BATCH), strict=True)
        scores["lpips"] = float(torch.cat([networks.perceptual(a, b) for a, b in pairs]).mean())
    if len(held_out) >= LEAST:
        network = networks.features
        scores |= {"features": network.name, "features_digest": network.digest}
        real = compute_features(network, images, images.rows("held_out"))
        scores["reconstruction_frechet_distance"] = frechet_distance(real, network.features(reconstructed))
    return scores


def reconstruct(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """Return the reconstructions of images [R, C, H, W], on the CPU."""
    return autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1).cpu()


def condition_accuracy(images: ImageSet, rows: Sequence[int], reconstructed: Tensor) -> dict[str, float]:
    """Read conditions back from reconstructed shapes: an upper bound for samples decoded by this autoencoder."""
    records = [images.records[row] for row in rows]
    found = {
        "class_accuracy": conditions.class_accuracy(reconstructed, [record["label"] for record in records]),
        "caption_accuracy": conditions.caption_accuracy(reconstructed, [record["text"] for record in records]),
        "box_overlap": conditions.box_overlap(reconstructed, [record["boxes"] for record in records]),
    }
    if images.maps is not None:
        found["map_overlap"] = conditions.map_overlap(reconstructed, images.maps[np.asarray(rows)])
    return found


@torch.inference_mode()
def codebook_use(autoencoder: Autoencoder, images: ImageSet) -> dict[str, float]:
    """Return the share of codebook entries that occur in any image, and the perplexity of their frequencies."""
    size = autoencoder.config.codebook_size
    counts = torch.zeros(size, dtype=torch.float64)
    for start in range(0, len(images.images), BATCH):
        pixels = images.pixels(range(start, min(start + BATCH, len(images.images)))).to(autoencoder.latent_scale.device)
        found = autoencoder.quantise(autoencoder.encode(pixels) / autoencoder.latent_scale).indices
        counts += torch.bincount(found.flatten().cpu(), minlength=size)
    share = counts / counts.sum()
    return {
        "codebook_used": float((counts > 0).double().mean()),
        "codebook_perplexity": float(torch.special.entr(share).sum().exp()),
    }
