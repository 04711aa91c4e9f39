"""Entry points of the stages: the one place where a stage reads its environment.

Each component calls one function of this module, which opens what its stage needs (S3, the registry, the queue as a
client) and hands it down. Each function reads only the settings of its own stage: a stage that trains has no database.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from kfp_pipelines import build, events
from kfp_pipelines.profiles import Profile
from kfp_pipelines.stages import publishing, reports, request_defaults, smoke, sweep, training
from kfp_pipelines.stages.notifying import notify
from kfp_pipelines.stages.publishing import Registry
from kfp_pipelines.train_job import submit
from services.database import connections
from services.settings import load, load_store
from services.storage.object_store import ObjectStore
from services.storage.uri import ObjectUri

if TYPE_CHECKING:  # loads torch
    from training.runs.checkpoints import CheckpointLocation

# torchrun sets both; Lightning, which starts a process for each further device of a pod, sets only the second.
RANK_VARIABLES = ("RANK", "LOCAL_RANK")
NOTIFY_VARIABLE = "DARKROOM_NOTIFY_URL"
RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RELEASE = "release"  # the folder of the release within a training

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def stage(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Report an error of the stage as an event; KFP prints its traceback as well."""

    @wraps(function)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except Exception as error:
            events.emit(events.StageError.of(error))
            raise

    return run


def stage_of_sweep(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Report an error as `stage` does, and tell the address in DARKROOM_NOTIFY_URL.

    A sweep has no stage that runs last and could tell it; see `definition.pipeline.sweep`.
    """

    @wraps(function)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except Exception as error:
            if url := os.environ.get(NOTIFY_VARIABLE):
                name = function.__name__.replace("_", " ")
                notify(url, "sweep", f"a sweep could not {name}: {events.StageError.of(error).message}")
            raise

    return stage(run)


@stage
def prepare(data: str, overrides: Sequence[str], images: str) -> str:
    """Prepare an image set in the folder `images`. Returns its fingerprint."""
    return training.prepare(data, overrides, Path(images))


@stage
def train(
    experiment: str,
    overrides: Sequence[str],
    inputs: Mapping[str, str],
    output: str,
    checkpoints: str,
    report: str = "",
    job: str = "",
) -> None:
    """Train an experiment into `output`, and write its report.

    inputs: paths by field of the experiment. checkpoints: see `find_checkpoints`.
    job: a profile as JSON; the training then runs as a TrainJob on its nodes instead of in this process.
    """
    run = run_of(output)
    if job:
        request = submit.Stage(experiment, overrides, inputs, checkpoints, build.image(), run)
        submit.run(request, Profile.model_validate_json(job), Path(output), load_store())
    else:
        link_loggers(run)
        training.train(experiment, overrides, inputs, Path(output), find_checkpoints(checkpoints), processes())
        training.remove_workings(Path(output))
    if report:
        reports.training(Path(output), Path(report))


@stage
def encode(experiment: str, overrides: Sequence[str], autoencoder: str, images: str, latents: str) -> None:
    """Encode the latents of an image set into the folder `latents`."""
    training.encode(experiment, overrides, Path(autoencoder) / RELEASE, Path(images), Path(latents))


@stage
def evaluate(
    trained: str, images: str, output: str, sampling: Sequence[str], report: str, base: str = ""
) -> dict[str, float]:
    """Evaluate a release on held-out images, and write the report. Returns the metrics that are numbers.

    base: of the release that it began with, which is evaluated too; empty if there is none.
    """
    before = Path(base) / RELEASE if base else None
    return training.evaluate(Path(trained) / RELEASE, Path(images), Path(output), sampling, Path(report), before)


@stage
def evaluate_student(
    trained: str, teacher: str, images: str, student: str, output: str, sampling: Sequence[str], report: str
) -> dict[str, float]:
    """Evaluate a distilled release beside its teacher, and copy it to `student` with its best default.

    Returns the metrics that are numbers.
    """
    shutil.copytree(Path(trained) / RELEASE, Path(student) / RELEASE, dirs_exist_ok=True)
    folders = Path(student) / RELEASE, Path(teacher) / RELEASE, Path(images)
    return training.evaluate_student(*folders, Path(output), sampling, Path(report))


@stage
def fetch_release(reference: str, kind: str, output: str) -> str:
    """Fetch a published release. Returns name@version."""
    with open_registry() as registry:
        return publishing.fetch(registry, reference, kind, Path(output) / RELEASE)


@stage
def compare(rules: Sequence[str], alias: str, images: str, evaluation: str, output: str, report: str) -> str:
    """Compare an evaluation with the rules and with production. Returns `passed` or `refused`."""
    with open_registry() as registry:
        verdict = publishing.compare(registry, rules, alias, Path(images), Path(evaluation), Path(output))
    Path(report).write_text((Path(output) / publishing.COMPARISON_PAGE).read_text())
    return verdict


@stage
def publish(trained: str, evaluation: str, alias: str, run: str, defaults: Sequence[str] = ()) -> str:
    """Publish a release with its evaluation, and point the alias at it. Returns name@version."""
    folder, fields = Path(trained) / RELEASE, request_defaults.parse(defaults)
    with open_registry() as registry:
        return publishing.publish(registry, folder, Path(evaluation), alias, build.origin_of(run), fields)


@stage
def promote(release: str, autoencoder: str, alias: str, comparison: str) -> None:
    """Point the alias at a release that passed the gate, and at its autoencoder if that is new."""
    with open_registry() as registry:
        publishing.promote(registry, release, autoencoder, alias, Path(comparison))


@stage
def run_smoke_job(release: str, trained: str, count: int, images: str, report: str) -> None:
    """Submit a job of `count` images as a client would, and check the images. Does nothing if `count` is 0."""
    if count == 0:
        smoke.report_no_job(Path(report))
        return
    settings = load("submitter")
    engine = connections.connect(settings.database_url.get_secret_value())
    try:
        store = ObjectStore.connect(settings)
        smoke.run(engine, store, release, Path(trained) / RELEASE, count, Path(images), Path(report))
    finally:
        engine.dispose()


@stage_of_sweep
def train_sweep_autoencoder(entry: Mapping[str, str], images: str, output: str, checkpoints: str) -> None:
    """Train the autoencoder of a sweep's entry."""
    sweep.train_autoencoder(entry, Path(images), Path(output), find_checkpoints(checkpoints), processes())


@stage_of_sweep
def train_sweep_diffusion(
    entry: Mapping[str, str],
    experiment: str,
    overrides: Sequence[str],
    images: str,
    autoencoder: str,
    output: str,
    checkpoints: str,
) -> None:
    """Train a diffusion model on the autoencoder of a sweep's entry."""
    location = find_checkpoints(checkpoints)
    release = Path(autoencoder) / RELEASE
    sweep.train_diffusion(entry, experiment, overrides, Path(images), release, Path(output), location, processes())


@stage_of_sweep
def evaluate_guidances(
    trained: str, images: str, output: str, sampling: Sequence[str], guidances: Sequence[float]
) -> None:
    """Evaluate a release under each guidance scale."""
    sweep.evaluate(Path(trained) / RELEASE, Path(images), Path(output), sampling, guidances)


@stage_of_sweep
def choose_best(
    by: str, trainings: Sequence[str], evaluations: Sequence[str], best: str, evaluation: str, report: str
) -> None:
    """Copy the best training of a sweep, and its evaluation."""
    entry = sweep.choose(by, [Path(path) for path in trainings], [Path(path) for path in evaluations], Path(report))
    sweep.copy_entry(entry, Path(best), Path(evaluation))


@stage
def report_end(run: str, state: str, code: str, message: str, report: str) -> None:
    """Report how the run ended, also to the address in DARKROOM_NOTIFY_URL if it failed."""
    reports.end(run, state, code, message, Path(report), os.environ.get(NOTIFY_VARIABLE, ""))


@contextmanager
def open_registry() -> Iterator[Registry]:
    """Open the registry with the publisher's login."""
    settings = load("publisher")
    engine = connections.connect(settings.database_url.get_secret_value())
    try:
        yield Registry(engine, ObjectStore.connect(settings), settings.cache_dir, settings.cache_gb)
    finally:
        engine.dispose()


def find_checkpoints(location: str) -> "CheckpointLocation":
    """Return where checkpoints are kept: s3://BUCKET/PREFIX, a folder, or the output folder of a run if empty.

    In S3 and in a folder, each run has its own place, named by its key.
    """
    from training.runs.checkpoints import CheckpointFolder

    if (uri := ObjectUri.parse(location)) is not None:
        from kfp_pipelines.checkpoints.durable import DurableLocation

        return DurableLocation(ObjectStore.connect(load_store(), uri.bucket), uri.key, rank())
    return CheckpointFolder(Path(location) if location else None)


def run_of(output: str) -> str:
    """Return the id of the pipeline's run, under which KFP stores the artifact `output`: PIPELINE/RUN/TASK/.../NAME.

    On a cluster it is a UUID, the first in the path. KFP's local runner stores RUN/TASK/NAME.
    """
    parts = Path(output).parts
    return next((part for part in parts if RUN_ID.fullmatch(part)), parts[-3] if len(parts) > 2 else "")


def link_loggers(run: str) -> None:
    """Let MLflow tag what it logs with the pipeline's run, and Weights & Biases group it, if the user set neither."""
    os.environ.setdefault("MLFLOW_RUN_CONTEXT", json.dumps({"darkroom.pipeline_run": run}))
    os.environ.setdefault("WANDB_RUN_GROUP", run)


def rank() -> int:
    """Return the rank of this process among those that train together; 0 for a process on its own."""
    return int(next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0"))


def host() -> str:
    """Return the name of this pod."""
    return os.environ.get("HOSTNAME", "here")


def processes() -> "training.Processes":
    """Return the processes of this pod that train together: one for each accelerator."""
    return training.Processes(rank(), int(os.environ.get(build.ACCELERATORS_VARIABLE, "1")))
