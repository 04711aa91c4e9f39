"""The networks that an evaluation looks through. Figures made through different ones do not compare."""

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
MOST = 10_000  # training images that stand for all
BATCH = 256  # images in memory at once


@dataclass(frozen=True)
class Weights:
    """Published weights, where there are any at hand: of Inception, of LPIPS, and the folder of a CLIP."""

    inception: Path | None = None
    vgg: str | None = None
    lpips: str | None = None
    clip: Path | None = None


@dataclass(frozen=True)
class Networks:
    """features: Inception, or else a classifier of the set's own images. The others are None without weights."""

    features: FeatureNetwork
    perceptual: LPIPS | None = None
    agreement: TextAgreement | None = None


def load(weights: Weights, images: ImageSet, data: Path, output: Path) -> Networks:
    """The networks of the weights. Without Inception's, the classifier of the set's folder, or one that is trained.

    Raises DataError, ValueError or FileNotFoundError naming what cannot be used.
    """
    if weights.inception is not None:
        features: FeatureNetwork = inception.load(weights.inception)
    else:
        features = own_classifier(images, [data / CLASSIFIER, output / CLASSIFIER])
    given = weights.vgg is not None or weights.lpips is not None
    return Networks(
        features,
        lpips.load(weights.vgg, weights.lpips) if given else None,
        None if weights.clip is None else text_agreement.load(weights.clip),
    )


def own_classifier(images: ImageSet, places: Sequence[Path]) -> classifier.Classifier:
    """The classifier at the first of the places that learned these images at this size; else one is trained.

    It is written at the last place. Raises DataError where no image is held out.
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


def features_of(network: FeatureNetwork, images: ImageSet, rows: Sequence[int]) -> Tensor:
    """The features of a set's images: [N, D]."""
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return torch.cat([network.features(images.pixels(part)) for part in parts])


def spread(rows: Sequence[int]) -> list[int]:
    """As many of the rows as stand for all, evenly spread."""
    count = min(len(rows), MOST)
    return [rows[i * len(rows) // count] for i in range(count)]
