"""A sweep: train a diffusion model on each of several autoencoders, and choose the best by one metric."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_pipelines.events import Message, emit
from kfp_pipelines.stages import reports, training
from kfp_pipelines.stages.gate import FINGERPRINT, GateError, read_metric
from kfp_pipelines.stages.publishing import FIRST_STAGE, METRICS
from kfp_pipelines.stages.training import ALONE, Processes

if TYPE_CHECKING:  # loads torch
    from training.runs.checkpoints import CheckpointLocation

DIRECTIONS = {"least": min, "most": max}


@dataclass(frozen=True)
class Entry:
    """A training of the sweep, and its evaluation under one guidance scale."""

    training: Path
    evaluation: Path
    scores: dict[str, Any]

    def __str__(self) -> str:
        document = json.loads((self.training / "release" / "release.json").read_text())
        factor = document["image_shape"][1] // document["latent_shape"][1]
        return f"{document['name']}, factor {factor}, guidance {self.scores['sampling']['guidance']:g}"


def train_autoencoder(
    entry: Mapping[str, str],
    images: Path,
    output: Path,
    checkpoints: "CheckpointLocation",
    processes: Processes = ALONE,
) -> None:
    """Train the autoencoder of an entry. Raises ExperimentError."""
    overrides = shlex.split(entry.get("overrides", ""))
    training.train(entry["experiment"], overrides, {"data.root": str(images)}, output, checkpoints, processes)
    training.remove_workings(output)


def train_diffusion(
    entry: Mapping[str, str],
    experiment: str,
    overrides: Sequence[str],
    images: Path,
    autoencoder: Path,
    output: Path,
    checkpoints: "CheckpointLocation",
    processes: Processes = ALONE,
) -> None:
    """Train a diffusion model on the autoencoder of an entry, and copy the autoencoder to be published with it."""
    inputs = {"data.root": str(images), "autoencoder": str(autoencoder)}
    own = shlex.split(entry.get("diffusion_overrides", ""))
    training.train(experiment, [*overrides, *own], inputs, output, checkpoints, processes)
    training.remove_workings(output)
    shutil.copytree(autoencoder, output / FIRST_STAGE, dirs_exist_ok=True)


def evaluate(release: Path, images: Path, output: Path, sampling: Sequence[str], guidances: Sequence[float]) -> None:
    """Evaluate a release under each guidance scale, each into its own folder."""
    for scale in guidances:
        folder = output / f"guidance-{scale:g}"
        training.evaluate(release, images, folder, [*sampling, f"guidance={scale}"], folder / "report.html")


def choose(by: str, trainings: Sequence[Path], evaluations: Sequence[Path], page: Path) -> Entry:
    """Return the entry with the least or the most of a metric, such as `least frechet_distance`, and write a report.

    Entries may differ in guidance; images, feature network and number of images must be the same. Raises GateError.
    """
    direction, _, metric = by.partition(" ")
    if direction not in DIRECTIONS or not metric:
        raise GateError(f"by: {by!r} is not allowed; permitted: least METRIC, most METRIC")
    entries = [
        Entry(folder, path.parent, json.loads(path.read_text()))
        for folder, evaluation in zip(trainings, evaluations, strict=True)
        for path in sorted(evaluation.glob(f"guidance-*/{METRICS}"))
    ]
    kinds = {(e.scores["data_fingerprint"], e.scores["features_digest"], e.scores["images"]) for e in entries}
    if len(kinds) != 1:
        raise GateError(
            "sweep: the metrics are not comparable, because the evaluations differ in images, feature network or "
            "number of images"
        )
    best = DIRECTIONS[direction](entries, key=lambda entry: read_metric(entry.scores, metric))
    ranked = sorted(entries, key=lambda entry: read_metric(entry.scores, metric), reverse=direction == "most")
    rows = {
        f"{n}. {entry}": {metric: read_metric(entry.scores, metric), FINGERPRINT: entry.scores[FINGERPRINT][:12]}
        for n, entry in enumerate(ranked, 1)
    }
    reports.write(page, f"The {by}: {best}", [reports.table(rows)], [best.evaluation / "samples.png"])
    emit(Message(f"sweep: {best} has the {by}, {read_metric(best.scores, metric):.4g}"))
    return best


def copy_entry(entry: Entry, training: Path, evaluation: Path) -> None:
    """Copy the training and the evaluation of an entry to the folders that later stages read."""
    shutil.copytree(entry.training, training, dirs_exist_ok=True)
    shutil.copytree(entry.evaluation, evaluation, dirs_exist_ok=True)
