"""Compares generated and real images as sets, and finds copies of training images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.image_set import ImageSet
from training.data.rows import spread
from training.evaluation.networks import MOST_REAL, compute_features
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

LEAST = 32  # images of each kind; figures of fewer are meaningless
SPLITS = 10
PAIRS = 16  # on the sheet of nearest neighbours


class Fidelity:
    """Compares images with the training images of a set in the feature space of a network."""

    def __init__(self, network: FeatureNetwork, images: ImageSet) -> None:
        self.network, self.images = network, images
        self.rows = spread(images.rows("train"), MOST_REAL)
        self.real = compute_features(network, images, self.rows)
        self.held_out = compute_features(network, images, images.rows("held_out"))

    def scores(self, samples: Tensor) -> dict[str, Any]:
        """Return the figures of samples [R, C, H, W] in [-1, 1], and those of held-out images for comparison."""
        found: dict[str, Any] = {"images": len(samples), "distinct_share": distinct_share(samples)}
        if min(len(samples), len(self.real)) < LEAST:
            return found
        generated = self.network.features(samples)
        found |= {"features": self.network.name, "features_digest": self.network.digest}
        found |= self.compare(generated)
        probabilities = self.network.probabilities(generated)
        if probabilities is not None and len(samples) >= 10 * SPLITS:
            found["inception_score"], _ = inception_score(probabilities, SPLITS)
        if len(self.held_out) >= LEAST:
            found |= self.compare_equal_numbers(generated)
        return found

    def compare_equal_numbers(self, generated: Tensor) -> dict[str, Any]:
        """Compare as many samples as held-out images: figures of other numbers of images cannot be compared."""
        count = min(len(generated), len(self.held_out))
        some = {
            "samples_of_equal_number": generated[spread(range(len(generated)), count)],
            "held_out_images": self.held_out[spread(range(len(self.held_out)), count)],
        }
        return {name: {"images": count, **self.compare(features)} for name, features in some.items()}

    def compare(self, features: Tensor) -> dict[str, float]:
        """Compare a set with these features, [N, D], with the training images."""
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
        """Return only the Fréchet distance."""
        return frechet_distance(self.real, self.network.features(samples))

    def nearest_neighbours(self, samples: Tensor, output: Path) -> dict[str, Any]:
        """Return the distances of samples and of held-out images to training images; draw the nearest pairs.

        A model that copies its training images is nearer to them than other real images are.
        """
        where, distances = nearest(self.network.features(samples), self.real)
        _, usual = nearest(self.held_out, self.real)
        closest = torch.argsort(distances)[:PAIRS]
        neighbours = self.images.pixels([self.rows[int(where[i])] for i in closest])
        contact_sheet.save(output / "nearest.png", torch.cat([samples[closest], neighbours]), columns=len(closest))
        pairs = {"distances": distances[closest].tolist(), "closest_held_out_image": float(usual.min())}
        return {
            "nearest_pairs": pairs,
            "nearest_training_image": float(distances.median()),
            "nearest_training_image_of_held_out_images": float(usual.median()),
            "nearer_than_any_held_out_image": float((distances < usual.min()).double().mean()),
        }
