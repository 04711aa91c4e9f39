"""`darkroom demo`: the whole chain on this machine, from handwriting to images in S3."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from services.errors import CommandError
from services.settings import load, root

CLASSES, IMAGES_PER_CLASS, STEPS, GUIDANCE, SEED = 10, 16, 30, 2.0, 7
EVALUATED = 320  # images that the pipeline judges the model by
SCORES = ("psnr", "ssim", "class_accuracy", "frechet_distance")  # shown
INSERT = "INSERT INTO jobs (model, request) VALUES (%(model)s, %(request)s) RETURNING id"


def demo(
    autoencoder_override: Annotated[
        list[str] | None, typer.Option(help="A Hydra override of the autoencoder's training, such as steps=20.")
    ] = None,
    diffusion_override: Annotated[
        list[str] | None, typer.Option(help="A Hydra override of the diffusion model's training, such as steps=20.")
    ] = None,
    evaluation_images: Annotated[int, typer.Option(help="Images that the model is judged by.", min=1)] = EVALUATED,
) -> None:
    """Start the local stack, train on handwritten digits in a Kubeflow pipeline, and develop a job inserted in SQL.

    Takes about five minutes on two cores. It leaves the stack running.
    """
    from kfp_pipelines.commands.pipeline import execute
    from services.cli.jobs import follow, write_sheet
    from services.cli.stack import start
    from services.database import connections
    from services.job_queue.states import JobState
    from services.local_stack.background import start_background
    from services.storage.object_store import ObjectStore

    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    with stage(console, "1. Postgres, Valkey and SeaweedFS on this machine"):
        start(report=lambda line: console.print(f"  {line}"))
    with stage(console, "2. The training pipeline, run by kfp.local"):
        settings = load("publisher")
        for name in ("dispatcher", "worker"):  # the pipeline tries the release through the queue
            console.print(f"  {name}: process {start_background(root(), name)}")
        execute(
            "full",
            {
                "autoencoder_overrides": autoencoder_override or [],
                "diffusion_overrides": diffusion_override or [],
                "sampling": [f"images={evaluation_images}"],
                "checkpoints": f"s3://{settings.s3_bucket}/checkpoints",
            },
            console,
        )
    with stage(console, "3. Releases"):
        show_releases(console)
    with stage(console, "4. A job, inserted with SQL"):
        settings = load("submitter")
        engine = connections.connect(settings.database_url.get_secret_value())
        job_id = insert_job(engine, console)
        row = follow(engine, str(job_id))
        if row.state != JobState.SUCCEEDED:
            raise CommandError(f"job {job_id} {row.state}: {row.reason or ''} Look into {root() / 'logs'}")
        assert row.manifest_key is not None
        store = ObjectStore.connect(settings)
        sheet = root() / "demo" / f"{job_id}.png"
        write_sheet(settings, engine, row, sheet)
        console.print(f"  images    {store.uri(row.manifest_key.rsplit('/', 1)[0])}/images/")
        console.print(f"  manifest  {store.uri(row.manifest_key)}")
    console.print(
        f"\n[bold]{row.succeeded} images in {time.monotonic() - began:.0f} s.[/] The contact sheet:\n  {sheet}\n"
    )
    console.print(
        f"The stack still runs. Look further:\n  darkroom jobs show {job_id}\n  darkroom releases show digits"
    )
    console.print("  darkroom status\nStop it:\n  darkroom down")


@contextmanager
def stage(console: Console, title: str) -> Iterator[None]:
    """A headline, and the seconds that what follows took."""
    console.print(f"[bold]{title}[/]")
    began = time.monotonic()
    yield
    console.print(f"  [dim]{time.monotonic() - began:.1f} s[/]")


def show_releases(console: Console) -> None:
    """What the pipeline published, with what it scored."""
    from services.database import connections
    from services.registry.evaluations import list_evaluated

    engine = connections.connect(load("publisher").database_url.get_secret_value())
    with engine.connect() as connection:
        for row in list_evaluated(connection, "production"):
            numbers = {name: row.metrics[name] for name in SCORES if name in row.metrics}
            scores = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            console.print(f"  {row.name}@{row.version} = {row.name}@{row.alias}  ({scores})")


def insert_job(engine: Any, console: Console) -> uuid.UUID:
    """Insert the demo's job as a client in any language would: one statement, with the submitter's login."""
    request = {
        "items": [{"class_label": label} for label in range(CLASSES)],
        "images_per_item": IMAGES_PER_CLASS,
        "solver": "ddim",
        "steps": STEPS,
        "guidance_scale": GUIDANCE,
        "seed": SEED,
    }
    values = {"model": "digits@production", "request": json.dumps(request)}
    shown = INSERT.replace("%(model)s", f"'{values['model']}'").replace("%(request)s", f"'{values['request']}'")
    console.print(f"  {shown};")
    connection = engine.raw_connection()
    try:
        (job_id,) = connection.cursor().execute(INSERT, values).fetchone()
        connection.commit()
    finally:
        connection.close()
    return uuid.UUID(str(job_id))
