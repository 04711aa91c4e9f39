"""Compares two diffusion releases by images of the same requests and seeds: `--against`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.conditions import types_of
from training.data.image_set import ImageSet
from training.data.rows import spread
from training.errors import DarkroomError
from training.evaluation import obedience
from training.evaluation.networks import MOST_REAL, Networks, compute_features
from training.evaluation.second_stage import (
    COLUMNS,
    EvaluationRequests,
    Sampling,
    build_requests,
    complete_sampling,
    generate,
)
from training.metrics import paired, targets
from training.metrics.paired import Difference
from training.model.latent_diffusion import load_diffusion
from training.model.release import Release
from training.previews import contact_sheet


class ComparisonError(DarkroomError):
    """The two releases cannot be compared; the message says why."""


def check_comparable(release: Release, other: Release) -> None:
    """Raise ComparisonError unless both are diffusion releases that make images of one size for the same requests."""
    if release.kind != "diffusion":
        raise ComparisonError(f"release: {release.name} is an {release.kind}; only diffusion releases can be compared")
    if other.kind != "diffusion":
        raise ComparisonError(f"against: {other.name} is an {other.kind}; only diffusion releases can be compared")
    for field, first, second in (
        ("image shape", release.image_shape, other.image_shape),
        ("conditions", types_of(release), types_of(other)),
    ):
        if first != second:
            raise ComparisonError(f"against: {other.name} has another {field}, {second}; {release.name} has {first}")
    for field, kind in types_of(release).items():
        names = [one.class_names(field) for one in (release, other)]
        if kind == "class" and all(names) and names[0] != names[1]:
            pairs = zip_longest(*names)
            number, (mine, theirs) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ComparisonError(f"against: {other.name} has other classes in {field}: class {number} is "
                                  f"{theirs!r}; of {release.name}, {mine!r}")  # fmt: skip


def compare(
    release: Path, other: Path, descriptions: tuple[Release, Release], images: ImageSet, output: Path,
    samplings: tuple[Sampling, Sampling], networks: Networks,
) -> dict[str, Any]:  # fmt: skip
    """Sample both releases for the same requests and seeds, and return the figures of both and their differences.

    descriptions, samplings: of the release and of the other one. Writes `comparison.json`, and `comparison.png` with
    the images of both, the release's above the other's. Raises ValueError for fewer than 32 images.
    """
    requested = build_requests(descriptions[0], images, samplings[0].images)
    judged = obedience.find(types_of(descriptions[0]), images, requested)
    features, obeyed, shown = list[Tensor](), list[Tensor](), list[Tensor]()
    used = [complete_sampling(*pair) for pair in zip(samplings, descriptions, strict=True)]
    for path, description, sampling in zip((release, other), descriptions, used, strict=True):
        model, _ = load_diffusion(path)
        samples = generate(model, description, requested.requests, sampling)
        features.append(networks.features.features(samples))
        if judged:
            obeyed.append(judged.measure(samples))
        shown.append(samples[spread(range(len(samples)), COLUMNS)])
    rows = spread(comparable_rows(descriptions[0], images), MOST_REAL)
    found = paired.compare(
        features[0],
        features[1],
        compute_features(networks.features, images, rows),
        conditions_of(descriptions[0], images, requested, rows),
        {judged.name: (obeyed[0], obeyed[1])} if judged else None,
    )
    output.mkdir(parents=True, exist_ok=True)
    contact_sheet.save(output / "comparison.png", torch.cat(shown), columns=len(shown[0]))
    scores = {
        "release": descriptions[0].name,
        "release_digest": descriptions[0].digest,
        "against": descriptions[1].name,
        "against_digest": descriptions[1].digest,
        "data": images.description.name,
        "data_fingerprint": images.description.fingerprint,
        "features": networks.features.name,
        "features_digest": networks.features.digest,
        "sampling": asdict(used[0]),
        "sampling_against": asdict(used[1]),
        "verdict": paired.summarise(found),
        "figures": {one.name: figure(one) for one in found},
    }
    (output / "comparison.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def figure(difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON."""
    return {
        "release": difference.first,
        "against": difference.second,
        "difference": difference.first - difference.second,
        "interval": [difference.low, difference.high],
        "detectable": difference.detectable,
        "verdict": difference.verdict,
    }


def conditions_of(
    description: Release, images: ImageSet, requested: EvaluationRequests, rows: list[int]
) -> tuple[Tensor, Tensor] | None:
    """Return the class of each request and of each real image, or None for other conditions."""
    fields = types_of(description)
    if not _is_of_classes(description):
        return None
    (field, *_) = fields
    return torch.tensor([request[field] for request in requested.requests]), torch.as_tensor(images.labels(rows))


def comparable_rows(description: Release, images: ImageSet) -> Sequence[int]:
    """Return the rows of training images, those with a label alone if figures are those within a class."""
    rows = images.rows("train")
    return targets.labelled(images, rows) if _is_of_classes(description) else rows


def _is_of_classes(description: Release) -> bool:
    return set(types_of(description).values()) == {"class"}
