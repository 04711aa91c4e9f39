"""The networks of an evaluation. Figures of different networks are not comparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.data.image_set import ImageSet
from training.metrics import classifier, inception, lpips, text_agreement
from training.metrics.features import FeatureNetwork
from training.metrics.lpips import LPIPS
from training.metrics.text_agreement import TextAgreement

CLASSIFIER = "classifier.safetensors"
MOST_REAL = 10_000  # training images that represent the set
BATCH = 256  # images in memory at once


@dataclass(frozen=True)
class Weights:
    """Optional published weights: of Inception, of LPIPS, and the folder of a CLIP."""

    inception: Path | None = None
    vgg: str | None = None
    lpips: str | None = None
    clip: Path | None = None


@dataclass(frozen=True)
class Networks:
    """The networks. features: Inception, or a classifier of the set's own images. Others are None without weights."""

    features: FeatureNetwork
    perceptual: LPIPS | None = None
    agreement: TextAgreement | None = None


def load(weights: Weights, images: ImageSet, data: Path, output: Path) -> Networks:
    """Load the networks. Without Inception, use the classifier in the set's folder, or train one.

    Raises DataError, ValueError or FileNotFoundError naming what cannot be used.
    """
    if weights.inception is not None:
        features: FeatureNetwork = inception.load(weights.inception)
    else:
        features = find_classifier(images, [data / CLASSIFIER, output / CLASSIFIER])
    given = weights.vgg is not None or weights.lpips is not None
    return Networks(
        features,
        lpips.load(weights.vgg, weights.lpips) if given else None,
        None if weights.clip is None else text_agreement.load(weights.clip),
    )


def find_classifier(images: ImageSet, places: Sequence[Path]) -> classifier.Classifier:
    """Return the first classifier in `places` that was trained on these images at this size, or train one.

    A new one is written to the last place. Raises DataError if no image is held out.
    """
    wanted = (images.description.fingerprint, images.channels, images.image_size)
    for path in places:
        if path.is_file():
            found = classifier.load(path)
            if (found.about.fingerprint, found.about.channels, found.about.image_size) == wanted:
                return found
    trained = classifier.train(images)
    classifier.save(trained, places[-1])
    return trained


def compute_features(network: FeatureNetwork, images: ImageSet, rows: Sequence[int]) -> Tensor:
    """Return the features of the images of `rows`: [N, D]."""
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return torch.cat([network.features(images.pixels(part)) for part in parts])
