"""What the training stages of the pipelines do, on a pod or on a laptop: paths in, paths out."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_pipelines import build
from kfp_pipelines.stages import reports
from services.storage.uri import ObjectUri

if TYPE_CHECKING:
    from training.runs.checkpoints import CheckpointLocation

RANK = "RANK"  # of torchrun
WORKINGS = ("checkpoints", "tensorboard", "latents")  # of a training: kept elsewhere, or of no use when it is done


def prepare(data: str, overrides: Sequence[str], output: Path) -> str:
    """Bring images to size and train the classifier that evaluations look through. Returns the set's fingerprint."""
    from training import prepare
    from training.evaluation.networks import CLASSIFIER, find_classifier

    images = prepare.run([f"data={data}", *overrides], output)
    if images.rows("held_out"):
        find_classifier(images, [output / CLASSIFIER])
    return images.description.fingerprint


def train(
    experiment: str,
    overrides: Sequence[str],
    inputs: Mapping[str, str],
    output: Path,
    checkpoints: str,
    report: Path | None = None,
    job: str = "",
) -> None:
    """Train an experiment into `output`/release. inputs: paths by field. checkpoints: see `location_of`.

    job: a profile as JSON: as a TrainJob on its nodes, not here. A stage that is tried again goes on from the newest
    whole checkpoint of the same settings, images and code.
    """
    output.mkdir(parents=True, exist_ok=True)
    if job:
        from kfp_pipelines.profiles import Profile
        from kfp_pipelines.train_job import submit

        asked = submit.Stage(experiment, overrides, inputs, checkpoints, build.image())
        submit.run(asked, Profile.model_validate_json(job), output)
    else:
        _train_here(experiment, overrides, inputs, output, checkpoints)
        if RANK not in os.environ:  # the last stage that needs them; an artifact is copied as a whole
            for name in WORKINGS:
                shutil.rmtree(output / name, ignore_errors=True)
    if report is not None:
        reports.training(output, report)


def _train_here(
    experiment: str, overrides: Sequence[str], inputs: Mapping[str, str], output: Path, checkpoints: str
) -> None:
    from training.train import run

    given = [f"{field}='{path}'" for field, path in inputs.items()]  # quoted: a path may hold commas
    run(named(experiment, output), [*overrides, *given], output, checkpoints=location_of(checkpoints))


def location_of(checkpoints: str) -> "CheckpointLocation":
    """Return where runs keep checkpoints: in s3://BUCKET/PREFIX, in a folder, or in the output folder if empty.

    In S3 and in a folder each run has its own place, by its key.
    """
    from training.runs.checkpoints import CheckpointFolder

    if (uri := ObjectUri.parse(checkpoints)) is not None:
        from kfp_pipelines.checkpoints.durable import DurableLocation
        from services.settings import load_store
        from services.storage.object_store import ObjectStore

        return DurableLocation(ObjectStore.connect(load_store(), uri.bucket), uri.key, int(os.environ.get(RANK, "0")))
    return CheckpointFolder(Path(checkpoints) if checkpoints else None)


def named(experiment: str, folder: Path) -> str:
    """An experiment that came as the text of a file, as the path of one in the folder; or its name as it is."""
    if "\n" not in experiment:
        return experiment
    path = folder / "experiment.yaml"
    path.write_text(experiment)
    return str(path)


def encode(experiment: str, overrides: Sequence[str], release: Path, images: Path, output: Path) -> None:
    """Write the latents of every training image; where the experiment has a place for them (`data.latents`), there.

    That place is shared: each first stage and set of images has a folder of its own in it.
    """
    from training.data import image_set, latents, pointer
    from training.data.locks import lock_folder
    from training.encode_latents import run
    from training.experiments import compose
    from training.model.release import read

    output.mkdir(parents=True, exist_ok=True)
    given = [f"data.root='{images}'", "autoencoder=x", *overrides]
    data = compose.load(named(experiment, output), given).data
    if data.latents is None:
        run(release, images, output, flip=data.flip)
        return
    of = read(release).digest, image_set.read(images).description.fingerprint
    place = Path(data.latents) / f"{of[0][:16]}-{of[1][:16]}{'-flips' if data.flip else ''}"
    with lock_folder(place):  # another run may encode the same
        if not (place / latents.DESCRIPTION).is_file():
            run(release, images, place, flip=data.flip)
    pointer.point(output, place)


def evaluate(release: Path, images: Path, output: Path, sampling: Sequence[str], report: Path) -> dict[str, float]:
    """Score a release; its figures that are numbers. sampling: fields such as steps=30."""
    from training.evaluate import run

    scores = run(release, images, output, sampling_of(sampling))
    reports.evaluation(scores, output, report)
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}


def sampling_of(given: Sequence[str]) -> Any:
    """How a diffusion model is sampled. Raises ValueError naming the field that is none, or its value."""
    from dataclasses import asdict

    from training.evaluation.second_stage import Sampling

    fields = asdict(Sampling())
    values: dict[str, Any] = {}
    for one in given:
        name, _, value = one.partition("=")
        if name not in fields:
            raise ValueError(f"sampling: {one!r} is not allowed; permitted: {', '.join(f'{f}=' for f in fields)}")
        try:
            values[name] = type(fields[name])(value)
        except ValueError:
            raise ValueError(f"sampling: {name} takes {type(fields[name]).__name__}, got {value!r}") from None
    return Sampling(**values)


def tell_end(run: str, state: str, code: str, message: str, report: Path) -> None:
    """Print and write how a run ended."""
    words = f"run {run} ended: {state}" + ("" if state == "SUCCEEDED" else f", {message or code}")
    print(words, flush=True)
    more = "" if state == "SUCCEEDED" else "\n\nNothing was promoted. The log of the stage that failed says why."
    report.write_text(f"# {words}{more}\n")
