"""Prepare, train, encode and evaluate: the stages that need neither the registry nor the queue."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_pipelines.events import Message, emit
from kfp_pipelines.stages import reports

if TYPE_CHECKING:  # loads torch
    from training.evaluation.second_stage import Sampling
    from training.runs.checkpoints import CheckpointLocation

OVERRIDES = "overrides.json"  # in the folder of an image set: the fields that it was prepared with
PLACES = ("data.root=", "data.prepared=")
BASE = "base"  # in the metrics of a release: those of the release that its training began with
WORKINGS = ("checkpoints", "tensorboard", "latents")  # of a training: stored elsewhere, or useless once it is done


@dataclass(frozen=True)
class Processes:
    """The processes that train together in one pod, which Lightning starts. rank: of this one. count: in total."""

    rank: int = 0
    count: int = 1


ALONE = Processes()


def prepare(data: str, overrides: Sequence[str], output: Path) -> str:
    """Prepare an image set, and train the classifier for its evaluations. Returns the fingerprint of the set."""
    from training import prepare
    from training.evaluation.networks import CLASSIFIER, find_classifier

    images = prepare.run([f"data={data}", *overrides], output)
    (output / OVERRIDES).write_text(json.dumps(training_overrides(data, overrides)))
    if images.rows("held_out"):
        find_classifier(images, [output / CLASSIFIER])
    return images.description.fingerprint


def training_overrides(data: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the data that training needs too: all but where the images come from and go to."""
    return [f"data={data}", *(one for one in overrides if not one.startswith(PLACES))]


def read_overrides(images: Path) -> list[str]:
    """Return the overrides that an image set was prepared with; none of a set that an earlier version prepared."""
    try:
        return list(json.loads((images / OVERRIDES).read_text()))
    except FileNotFoundError:
        return []


def train(
    experiment: str,
    overrides: Sequence[str],
    inputs: Mapping[str, str],
    output: Path,
    checkpoints: "CheckpointLocation",
    processes: Processes = ALONE,
) -> None:
    """Train an experiment; its release is stored in `output`/release. inputs: paths by field of the experiment.

    The fields that the images were prepared with apply here too, before `overrides`.
    Training resumes from the newest checkpoint of the same settings, images and code. Every process but the first ends
    here, because Lightning starts it with the program of the first, which then reports the result.
    """
    from training.train import run

    output.mkdir(parents=True, exist_ok=True)
    paths = [f"{field}='{path}'" for field, path in inputs.items()]  # quoted: a path may hold commas
    if processes.count > 1 and not any(one.startswith("devices=") for one in overrides):
        paths.append(f"devices={processes.count}")
    overrides = [*read_overrides(Path(inputs["data.root"])), *overrides, *paths]
    run(save_experiment(experiment, output), overrides, output, checkpoints=checkpoints)
    if processes.rank > 0:
        raise SystemExit(0)


def remove_workings(output: Path) -> None:
    """Remove what no later stage reads, because KFP copies an artifact as a whole."""
    for name in WORKINGS:
        shutil.rmtree(output / name, ignore_errors=True)


def save_experiment(experiment: str, folder: Path) -> str:
    """Save an experiment that is given as YAML in `folder` and return its path; return a name unchanged."""
    if "\n" not in experiment:
        return experiment
    path = folder / "experiment.yaml"
    path.write_text(experiment)
    return str(path)


def encode(experiment: str, overrides: Sequence[str], release: Path, images: Path, output: Path) -> None:
    """Write the latents of every training image to `output`.

    If the experiment sets `data.latents`, write them to a folder there and a pointer to `output`. Each pair of
    autoencoder and image set has its own folder.
    """
    from training.data import image_set, latents, pointer
    from training.data.locks import lock_folder
    from training.encode_latents import run
    from training.experiments import compose
    from training.model.release import read

    output.mkdir(parents=True, exist_ok=True)
    placeholders = [f"data.root='{images}'", "autoencoder=x"]
    fields = [*read_overrides(images), *placeholders, *overrides]
    data = compose.load(save_experiment(experiment, output), fields).data
    if data.latents is None:
        run(release, images, output, flip=data.flip)
        return
    digest, fingerprint = read(release).digest, image_set.read(images).description.fingerprint
    place = Path(data.latents) / f"{digest[:16]}-{fingerprint[:16]}{'-flips' if data.flip else ''}"
    with lock_folder(place):  # another run may encode the same
        if not (place / latents.DESCRIPTION).is_file():
            run(release, images, place, flip=data.flip)
    pointer.point(output, place)


def evaluate(
    release: Path, images: Path, output: Path, sampling: Sequence[str], report: Path, base: Path | None = None
) -> dict[str, float]:
    """Evaluate a release and write the report. Returns the metrics that are numbers. sampling: see `parse_sampling`.

    base: the release that it began with. Its metrics on the same images are a group of the metrics, BASE.
    """
    from training.evaluate import run

    scores = run(release, images, output, parse_sampling(sampling))
    if base is not None and (before := evaluate_base(base, images, output / BASE, sampling)) is not None:
        scores[BASE] = before
        (output / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n")
    reports.evaluation(scores, output, report)
    return numbers(scores)


def evaluate_base(base: Path, images: Path, output: Path, sampling: Sequence[str]) -> dict[str, Any] | None:
    """Return the metrics of the release that a training began with; None if it has none on these images."""
    from training.data.image_set import DataError
    from training.evaluate import run

    try:
        scores = run(base, images, output, parse_sampling(sampling))
    except (DataError, ValueError) as error:
        emit(Message(f"the release that the training began with cannot be evaluated on these images: {error}"))
        return None
    about = {name: scores[name] for name in ("release", "release_digest")}
    return {**about, **numbers(scores)}


def evaluate_student(
    student: Path, teacher: Path, images: Path, output: Path, sampling: Sequence[str], report: Path
) -> dict[str, float]:
    """Evaluate a distilled release, make its best setting its default, and compare it with its teacher.

    Writes the report. Returns the metrics that are numbers. sampling: of the teacher; see `parse_sampling`.
    """
    from training.evaluate_student import run_student

    def tell(steps: int, distance: float) -> None:
        emit(Message(f"student: {steps} evaluations have a Fréchet distance of {distance:.4g}"))

    found = run_student(student, teacher, images, output, parse_sampling(sampling), tell)
    emit(Message(f"student: {found.best_steps} evaluations are the default; {found.comparison['verdict']}"))
    reports.student(found, output, report)
    return numbers(found.metrics)


def numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers."""
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}


def parse_sampling(pairs: Sequence[str]) -> "Sampling":
    """Parse how a diffusion model is sampled, such as steps=30. Raises ValueError naming the field and its type."""
    from training.evaluation.second_stage import Sampling

    parsers = Sampling.parsers()
    values = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in parsers:
            raise ValueError(f"sampling: {pair!r} is not allowed; permitted: {', '.join(f'{f}=' for f in parsers)}")
        try:
            values[name] = parsers[name](value)
        except ValueError:
            raise ValueError(f"sampling: {name} must be {parsers[name].__name__}, got {value!r}") from None
    return Sampling(**values)
