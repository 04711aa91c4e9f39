"""`darkroom demo`: the whole service on this machine, from training to images in S3."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.session import create_engine
from services.errors import CommandError
from services.local_stack.state import stack_root

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from services.job_queue.clients import Job
    from services.settings import Settings

CLASSES, IMAGES_PER_CLASS, STEPS, GUIDANCE, SEED = 10, 16, 30, 2.0, 7
EVALUATION_IMAGES = 320  # sampled by the pipeline to evaluate the release
STUDENT_TRAINING_STEPS, STUDENT_STEPS = 120, 4
STUDENT_EVALUATION_IMAGES = 128
SCORES = ("psnr", "ssim", "class_accuracy", "frechet_distance")  # metrics that are printed
INSERT = "INSERT INTO jobs (model, request) VALUES (%(model)s, %(request)s) RETURNING id"


def demo(
    autoencoder_override: Annotated[
        list[str] | None,
        typer.Option(help="Hydra override for training the autoencoder, such as steps=20; may be repeated."),
    ] = None,
    diffusion_override: Annotated[
        list[str] | None,
        typer.Option(help="Hydra override for training the diffusion model, such as steps=20; may be repeated."),
    ] = None,
    evaluation_images: Annotated[
        int, typer.Option(help="Images to sample for the evaluation.", min=1)
    ] = EVALUATION_IMAGES,
    distil: Annotated[
        bool,
        typer.Option(help=f"Also distil the model, and sample the job again in {STUDENT_STEPS} evaluations an image."),
    ] = False,
    distillation_override: Annotated[
        list[str] | None,
        typer.Option(help="Hydra override for training the distilled model, such as steps=20; may be repeated."),
    ] = None,
) -> None:
    """Train on handwritten digits and sample them, locally.

    Starts the local stack, trains and publishes a model in a Kubeflow pipeline, and samples a job that is inserted
    with SQL. Takes about five minutes on two cores. The stack is left running.
    """
    from services.cli.contact_sheet import write_job_sheet
    from services.cli.stack import start
    from services.local_stack.background import start_background
    from services.settings import load
    from services.storage.object_store import ObjectStore

    began = time.monotonic()
    with _step("1. Postgres, Valkey and SeaweedFS on this machine"):
        start(report=lambda line: typer.echo(f"  {line}"))
    with _step("2. The training pipeline, run by kfp.local"):
        settings = load("publisher")
        for name in ("dispatcher", "worker"):  # the pipeline samples a smoke job from the release
            typer.echo(f"  {name}: process {start_background(stack_root(), name)}")
        _run_pipeline(
            "full",
            {
                "autoencoder_overrides": autoencoder_override or [],
                "diffusion_overrides": diffusion_override or [],
                "sampling": [f"images={evaluation_images}"],
            },
        )
    with _step("3. Releases"):
        _print_releases(create_engine(settings))
    with _step("4. A job, inserted with SQL"):
        settings = load("submitter")
        engine = create_engine(settings)
        job = _sample(engine, "digits@production", {"solver": "ddim", "steps": STEPS})
        store = ObjectStore.connect(settings)
        assert job.manifest_key is not None  # a job that succeeded has a manifest
        sheet = stack_root() / "demo" / f"{job.id}.png"
        write_job_sheet(settings, engine, job, sheet)
        typer.echo(f"  images    {store.uri(job.manifest_key.rsplit('/', 1)[0])}/images/")
        typer.echo(f"  manifest  {store.uri(job.manifest_key)}")
    images = job.succeeded
    if distil:
        images += _distil(settings, engine, job, sheet, distillation_override or [])
    headline = typer.style(f"{images} images in {time.monotonic() - began:.0f} s.", bold=True)
    typer.echo(f"\n{headline} The contact sheet:\n  {sheet}\n")
    typer.echo(
        f"The stack is still running. Look around:\n  darkroom jobs show {job.id}\n  darkroom releases show digits"
    )
    typer.echo("  darkroom status\nLook at it in a browser; this prints a link that signs in:\n  darkroom console")
    typer.echo("Stop it:\n  darkroom down")


@contextmanager
def _step(title: str) -> Iterator[None]:
    """Print a headline, and then how many seconds the step took."""
    typer.secho(title, bold=True)
    began = time.monotonic()
    yield
    typer.secho(f"  {time.monotonic() - began:.1f} s", dim=True)


def _print_releases(engine: "Engine") -> None:
    """Print the releases in production with their scores."""
    from services.registry.evaluations import list_evaluated

    with engine.connect() as connection:
        for row in list_evaluated(connection, "production"):
            numbers = {name: row.metrics[name] for name in SCORES if name in row.metrics}
            scores = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            typer.echo(f"  {row.name}@{row.version} = {row.name}@{row.alias}  ({scores})")


def _run_pipeline(variant: str, arguments: dict[str, Any]) -> None:
    """Run a pipeline with checkpoints in the store of the local stack. Raises PipelineError."""
    from rich.console import Console

    from kfp_pipelines.commands.local_run import run_here
    from services.settings import load

    checkpoints = f"s3://{load('publisher').s3_bucket}/checkpoints"
    run_here(variant, {**arguments, "checkpoints": checkpoints}, Console(highlight=False, soft_wrap=True))


def _distil(settings: "Settings", engine: "Engine", job: "Job", sheet: Path, overrides: list[str]) -> int:
    """Distil the model, sample the job again, and draw both jobs side by side. Returns the number of its images."""
    from services.cli.contact_sheet import write_sheet_of_jobs

    with _step(f"5. A student of the model that needs {STUDENT_STEPS} network evaluations an image, not {2 * STEPS}"):
        _run_pipeline(
            "distil",
            {
                "teacher": "digits@production",
                "distillation_overrides": [f"steps={STUDENT_TRAINING_STEPS}", *overrides],
                "sampling": [f"images={STUDENT_EVALUATION_IMAGES}"],
                "gate": [],  # after so short a training, the comparison with the teacher is printed only
            },
        )
    with _step("6. The same job, sampled by the student"):
        again = _sample(engine, "digits-distilled@production", {"steps": STUDENT_STEPS})
        write_sheet_of_jobs(settings, engine, [job, again], sheet)
    return again.succeeded


def _sample(engine: "Engine", model: str, sampling: dict[str, Any]) -> "Job":
    """Insert the job as a client in any language would, with one statement and the submitter's login; wait for its end.

    Raises CommandError if the job does not succeed.
    """
    from services.cli.job_access import wait_for_job

    request = {
        "items": [{"class_label": label} for label in range(CLASSES)],
        "images_per_item": IMAGES_PER_CLASS,
        **sampling,
        "guidance_scale": GUIDANCE,
        "seed": SEED,
    }
    values = {"model": model, "request": json.dumps(request)}
    statement = INSERT.replace("%(model)s", f"'{values['model']}'").replace("%(request)s", f"'{values['request']}'")
    typer.echo(f"  {statement};")
    with engine.begin() as connection:
        job_id: uuid.UUID = connection.exec_driver_sql(INSERT, values).scalar_one()
    job = wait_for_job(engine, str(job_id))
    if not job.has_succeeded:
        raise CommandError(f"job {job_id} {job.state}: {job.reason or ''} See the logs in {stack_root() / 'logs'}")
    return job
