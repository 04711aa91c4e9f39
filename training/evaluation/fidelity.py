"""How alike generated and real images are as sets, and whether generated ones are copies."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.image_set import ImageSet
from training.evaluation.networks import features_of, spread
from training.metrics import distinct_share
from training.metrics.distributions import (
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    nearest,
    precision_recall,
)
from training.metrics.features import FeatureNetwork
from training.previews import contact_sheet

LEAST = 32  # images of each kind, for anything to be said of a set
SPLITS = 10
SHOWN = 16


class Fidelity:
    """Compares images with the training images of a set, as a network sees them."""

    def __init__(self, network: FeatureNetwork, images: ImageSet) -> None:
        self.network, self.images = network, images
        self.rows = spread(images.rows("train"))
        self.real = features_of(network, images, self.rows)
        self.held_out = features_of(network, images, images.rows("held_out"))

    def scores(self, samples: Tensor) -> dict[str, Any]:
        """Figures of samples [R, C, H, W] in [-1, 1], and of the held-out images, which are as good as can be."""
        found: dict[str, Any] = {"images": len(samples), "distinct_share": distinct_share(samples)}
        if min(len(samples), len(self.real)) < LEAST:
            return found
        generated = self.network.features(samples)
        found |= {"features": self.network.name, "features_digest": self.network.digest}
        found |= self.likeness(generated)
        probabilities = self.network.probabilities(generated)
        if probabilities is not None and len(samples) >= 10 * SPLITS:
            found["inception_score"], _ = inception_score(probabilities, SPLITS)
        if len(self.held_out) >= LEAST:
            found["held_out_images"] = {"images": len(self.held_out), **self.likeness(self.held_out)}
        return found

    def likeness(self, features: Tensor) -> dict[str, float]:
        """How alike a set with these features, [N, D], is to the training images."""
        kernel, error = kernel_distance(self.real, features)
        precision, recall = precision_recall(self.real, features)
        density, coverage = density_coverage(self.real, features)
        return {
            "frechet_distance": frechet_distance(self.real, features),
            "kernel_distance": kernel,
            "kernel_distance_error": error,
            "precision": precision,
            "recall": recall,
            "density": density,
            "coverage": coverage,
        }

    def distance(self, samples: Tensor) -> float:
        """The Fréchet distance alone."""
        return frechet_distance(self.real, self.network.features(samples))

    def copies(self, samples: Tensor, output: Path) -> dict[str, Any]:
        """How near samples are to training images, and held-out images are; a sheet of the nearest pairs.

        A model that repeats its training images comes nearer to them than other real images do.
        """
        where, distances = nearest(self.network.features(samples), self.real)
        _, usual = nearest(self.held_out, self.real)
        closest = torch.argsort(distances)[:SHOWN]
        neighbours = self.images.pixels([self.rows[int(where[i])] for i in closest])
        contact_sheet.save(output / "nearest.png", torch.cat([samples[closest], neighbours]), columns=len(closest))
        return {
            "nearest_training_image": float(distances.median()),
            "nearest_training_image_of_held_out_images": float(usual.median()),
            "nearer_than_any_held_out_image": float((distances < usual.min()).double().mean()),
        }
