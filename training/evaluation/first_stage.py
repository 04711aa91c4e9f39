"""Evaluates an autoencoder on its reconstructions of held-out images."""

from collections import defaultdict
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
from training.metrics import conditions, psnr, ssim
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
    drawn = images.description.box_classes == shapes.CLASSES
    figures = Reconstructions(images, networks)
    shown: list[Tensor] = []
    kept: list[Tensor] = []
    for start in range(0, len(rows), BATCH):
        held_out = images.pixels(rows[start : start + BATCH])
        reconstructed = reconstruct(autoencoder, held_out.to(device))
        figures.add(reconstructed, held_out)
        shown = shown or [held_out[:PAIRS], reconstructed[:PAIRS]]
        kept += [reconstructed] if drawn else []  # the built-in set is small
    contact_sheet.save(output / "reconstructions.png", torch.cat(shown), columns=len(shown[0]))
    scores = figures.scores()
    if drawn:
        scores |= condition_accuracy(images, rows, torch.cat(kept))
    if autoencoder.config.regularisation == "vq":
        scores |= codebook_use(autoencoder, images)
    return scores


class Reconstructions:
    """Collects how far reconstructions of held-out images are from them, batch by batch: it keeps no pixels."""

    def __init__(self, images: ImageSet, networks: Networks) -> None:
        self.images, self.networks = images, networks
        self.measured: dict[str, list[Tensor]] = defaultdict(list)  # a value or a row of features of each image

    def add(self, reconstructed: Tensor, held_out: Tensor) -> None:
        """Measure some of the held-out images, in their order. Both are [R, C, H, W] in [-1, 1]."""
        self.measured["psnr"].append(psnr(reconstructed, held_out).clamp(max=MOST))
        if self.images.image_size >= SMALLEST:
            self.measured["ssim"].append(ssim(reconstructed, held_out))
        if self.networks.perceptual is not None:
            self.measured["lpips"].append(self.networks.perceptual(held_out, reconstructed))
        if len(self.images.rows("held_out")) >= LEAST:
            self.measured["features"].append(self.networks.features.features(reconstructed))

    def scores(self) -> dict[str, Any]:
        """Return the figures of all held-out images."""
        measured = {name: torch.cat(values) for name, values in self.measured.items()}
        features = measured.pop("features", None)
        scores: dict[str, Any] = {
            "psnr": float(measured["psnr"].mean()), "psnr_worst": float(measured["psnr"].min()),
            "images": len(measured["psnr"]),
        }  # fmt: skip
        scores |= {name: float(values.mean()) for name, values in measured.items() if name != "psnr"}
        if features is not None:
            network = self.networks.features
            scores |= {"features": network.name, "features_digest": network.digest}
            real = compute_features(network, self.images, self.images.rows("held_out"))
            scores["reconstruction_frechet_distance"] = frechet_distance(real, features)
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
