"""The best training of several, by one figure of their evaluations."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_pipelines.stages import reports
from kfp_pipelines.stages import training as stages
from kfp_pipelines.stages.gate import FINGERPRINT, GateError, figure
from kfp_pipelines.stages.publishing import FIRST_STAGE, METRICS

DIRECTIONS = {"least": min, "most": max}


@dataclass(frozen=True)
class Entry:
    """One training of the sweep, and its evaluation under one guidance."""

    training: Path
    evaluation: Path
    scores: dict[str, Any]


def train_autoencoder(entry: Mapping[str, str], images: Path, output: Path, checkpoints: str) -> None:
    """Train the first stage of an entry. Raises ExperimentError."""
    given = shlex.split(entry.get("overrides", ""))
    stages.train(entry["experiment"], given, {"data.root": str(images)}, output, checkpoints)


def train_diffusion(
    entry: Mapping[str, str],
    experiment: str,
    overrides: Sequence[str],
    images: Path,
    autoencoder: Path,
    output: Path,
    checkpoints: str,
) -> None:
    """Train the second stage on an entry's first one, which is kept beside it to be published with it."""
    inputs = {"data.root": str(images), "autoencoder": str(autoencoder)}
    given = [*overrides, *shlex.split(entry.get("diffusion_overrides", ""))]
    stages.train(experiment, given, inputs, output, checkpoints)
    shutil.copytree(autoencoder, output / FIRST_STAGE, dirs_exist_ok=True)


def evaluate(release: Path, images: Path, output: Path, sampling: Sequence[str], guidances: Sequence[float]) -> None:
    """Score a release under each guidance scale, each into a folder of its own."""
    for scale in guidances:
        folder = output / f"guidance-{scale:g}"
        stages.evaluate(release, images, folder, [*sampling, f"guidance={scale}"], folder / "report.html")


def choose(by: str, trainings: Sequence[Path], evaluations: Sequence[Path], page: Path) -> Entry:
    """The entry with the least or most of a figure, such as `least frechet_distance`. Raises GateError.

    Entries differ in guidance, which is theirs to choose; images, network and count must be the same.
    """
    direction, _, name = by.partition(" ")
    if direction not in DIRECTIONS or not name:
        raise GateError(f"by: {by!r} is not allowed; permitted: least FIGURE, most FIGURE")
    entries = [
        Entry(training, path.parent, json.loads(path.read_text()))
        for training, evaluation in zip(trainings, evaluations, strict=True)
        for path in sorted(evaluation.glob(f"guidance-*/{METRICS}"))
    ]
    kinds = {(e.scores["data_fingerprint"], e.scores["features_digest"], e.scores["images"]) for e in entries}
    if len(kinds) != 1:
        raise GateError("sweep: the evaluations are of different images, networks or counts, and do not compare")
    best = DIRECTIONS[direction](entries, key=lambda entry: figure(entry.scores, name))
    shown = sorted(entries, key=lambda entry: figure(entry.scores, name), reverse=direction == "most")
    rows = {
        f"{n}. {described(entry)}": {name: figure(entry.scores, name), FINGERPRINT: entry.scores[FINGERPRINT][:12]}
        for n, entry in enumerate(shown, 1)
    }
    reports.write(page, f"The {by}: {described(best)}", [reports.table(rows)], [best.evaluation / "samples.png"])
    print(f"sweep: the {by}, {figure(best.scores, name):.4g}, is of {described(best)}", flush=True)
    return best


def described(entry: Entry) -> str:
    """What tells an entry from the others."""
    document = json.loads((entry.training / "release" / "release.json").read_text())
    image, latent = document["image_shape"], document["latent_shape"]
    return f"{document['name']}, factor {image[1] // latent[1]}, guidance {entry.scores['sampling']['guidance']:g}"


def take(entry: Entry, training: Path, evaluation: Path) -> None:
    """Copy an entry's training and evaluation to where the next stages look."""
    shutil.copytree(entry.training, training, dirs_exist_ok=True)
    shutil.copytree(entry.evaluation, evaluation, dirs_exist_ok=True)
