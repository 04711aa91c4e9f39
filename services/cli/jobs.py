"""`darkroom jobs`: submit work and look at what became of it."""

import json
import sys
import time
import uuid
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import Engine

from services.cli.session import AsJson, connect, connect_database
from services.errors import CommandError
from services.job_queue import clients
from services.job_queue.clients import Job, JobSummary
from services.job_queue.outputs import Output, list_outputs
from services.job_queue.states import JobState
from services.settings import Settings

app = typer.Typer(help="Submit jobs and see what became of them.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

EXIT_NOT_SUCCEEDED = 3
JobId = Annotated[str, typer.Argument(help="The id that submitting returned.")]


def find(engine: Engine, job_id: str) -> Job:
    """A job. Raises CommandError for an id that is malformed or not this tenant's."""
    try:
        identifier = uuid.UUID(job_id)
    except ValueError:
        raise CommandError(f"job: {job_id!r} is not a job id; list them with: darkroom jobs list") from None
    with engine.connect() as connection:
        job = clients.find_job(connection, identifier)
    if job is None:
        raise CommandError(f"job: you have no job {job_id}; list them with: darkroom jobs list")
    return job


def described(job: JobSummary) -> dict[str, Any]:
    """A job as JSON has it."""
    return {
        key: value if value is None or isinstance(value, int | dict) else str(value)
        for key, value in asdict(job).items()
        if key != "plan"
    }


@app.command()
def submit(
    model: Annotated[str, typer.Option(help="name, name@alias or name@version")],
    request: Annotated[str, typer.Option(help="The request as JSON, or - to read it from standard input.")],
    queue: Annotated[str, typer.Option(help="The queue.")] = "default",
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher runs sooner.")] = 0,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key again returns the same job.")] = None,
    run_after: Annotated[str | None, typer.Option(help="Not before this time, such as 2030-01-31T18:00+01:00.")] = None,
    deadline: Annotated[str | None, typer.Option(help="What is not made by this time fails.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job: the INSERT that any language can do. Prints the job's id at once."""
    body = sys.stdin.read() if request == "-" else request
    try:
        parsed = json.loads(body)
    except json.JSONDecodeError as error:
        raise CommandError(
            f'--request: not JSON ({error}); an example: \'{{"items": [{{"class_label": 3}}]}}\''
        ) from None
    if not isinstance(parsed, dict):
        raise CommandError('--request: not a JSON object; an example: \'{"items": [{"class_label": 3}]}\'')
    engine = connect_database("submitter")
    job = {
        "model": model,
        "request": parsed,
        "queue": queue,
        "priority": priority,
        "idempotency_key": idempotency_key,
        "run_after": _time("--run-after", run_after),
        "deadline": _time("--deadline", deadline),
    }
    with engine.begin() as connection:
        job_id = clients.submit_job(connection, job)
    typer.echo(json.dumps({"id": str(job_id)}) if as_json else str(job_id))


def _time(option: str, value: str | None) -> str | None:
    try:
        return None if value is None else datetime.fromisoformat(value).astimezone().isoformat()
    except ValueError:
        raise CommandError(f"{option}: {value!r} is no time; permitted: such as 2030-01-31T18:00+01:00") from None


@app.command("submit-many")
def submit_many(
    file: Annotated[Path, typer.Argument(help="JSON Lines: of each job its model, its request, and what else it has.")],
) -> None:
    """Submit many jobs in one transaction: all of them, or none. Prints their ids, line by line."""
    if not file.is_file():
        raise CommandError(f"{file} does not exist")
    jobs = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            jobs.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise CommandError(f"{file}, line {number}: not JSON ({error}); nothing was submitted") from None
    engine = connect_database("submitter")
    with engine.begin() as connection:
        for job_id in clients.submit_jobs(connection, jobs):
            typer.echo(str(job_id))


@app.command()
def cancel(job_id: JobId) -> None:
    """Stop a job. What is under way ends within seconds; images that are finished stay."""
    engine = connect_database("submitter")
    row = find(engine, job_id)
    if row.has_ended:
        raise CommandError(f"job: {job_id} has ended already ({row.state})")
    with engine.begin() as connection:
        clients.cancel_job(connection, row.id)
    console.print(f"{job_id} is told to stop.")


@app.command()
def retry(job_id: JobId) -> None:
    """Make the images of a job again that failed or were never made; those that it has stay."""
    engine = connect_database("submitter")
    row = find(engine, job_id)
    if not row.can_be_retried:
        raise CommandError(
            f"job: {job_id} is {row.state}; only a planned job that ended partial, failed or cancelled is tried again"
        )
    with engine.begin() as connection:
        revision = clients.retry_job(connection, row.id)
    console.print(f"{job_id} goes on as revision {revision}.")


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20, as_json: AsJson = False
) -> None:
    """List jobs, newest first."""
    engine = connect_database("submitter")
    with engine.connect() as connection:
        rows = clients.list_jobs(connection, limit)
    if as_json:
        typer.echo(json.dumps([described(row) for row in rows]))
        return
    table = Table("job", "model", "state", "images", "submitted", "reason", box=None)
    for row in rows:
        done = f"{row.succeeded}/{row.total}" + (f" ({row.failed} failed)" if row.failed else "")
        table.add_row(str(row.id), row.model, row.state, done, f"{row.created_at:%Y-%m-%d %H:%M:%S}", row.reason or "")
    console.print(table if rows else "No jobs yet. Submit one with: darkroom jobs submit --help")


@app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job: its state, counts, and why it was rejected if it was."""
    settings, engine = connect("submitter")
    row = find(engine, job_id)
    if as_json:
        typer.echo(json.dumps(described(row)))
        return
    table = Table(box=None, show_header=False)
    for key, value in described(row).items():
        if key == "manifest_key" and value:
            value = f"s3://{settings.s3_bucket}/{value}"
        table.add_row(
            key.replace("_", " "), json.dumps(value) if isinstance(value, dict) else str("" if value is None else value)
        )
    console.print(table)


@app.command()
def watch(job_id: JobId, as_json: AsJson = False) -> None:
    """Follow a job to its end. Exit code 0 if it succeeded, 3 if it did not."""
    engine = connect_database("submitter")
    row = follow(engine, job_id, show=not as_json)
    if as_json:
        typer.echo(json.dumps(described(row)))
    else:
        console.print(f"{row.state}: {row.succeeded} of {row.total} images" + (f"\n{row.reason}" if row.reason else ""))
    if row.state != JobState.SUCCEEDED:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


def follow(engine: Engine, job_id: str, *, show: bool = True) -> Job:
    """Wait until a job has ended, with a progress bar. Returns the job."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        bar = progress.add_task("submitted", total=None)
        while True:
            row = find(engine, job_id)
            progress.update(bar, description=row.state, total=row.total or None, completed=row.succeeded + row.failed)
            if row.has_ended:
                return row
            time.sleep(0.25)


def _images(engine: Engine, job: Job) -> list[Output]:
    with engine.connect() as connection:
        return list_outputs(connection, job.id)


@app.command()
def outputs(
    job_id: JobId,
    download: Annotated[Path | None, typer.Option(help="A folder to copy the images to.")] = None,
    as_json: AsJson = False,
) -> None:
    """List a job's images and errors; with --download, fetch the images and check their sha256."""
    import hashlib

    from services.storage.object_store import ObjectStore

    settings, engine = connect("submitter")
    rows = _images(engine, find(engine, job_id))
    store = ObjectStore.connect(settings)
    if download is not None:
        download.mkdir(parents=True, exist_ok=True)
        for row in rows:
            if row.key:
                body = store.get(row.key)
                if hashlib.sha256(body).hexdigest() != row.sha256:
                    raise CommandError(f"{store.uri(row.key)}: sha256 differs from the record; the object was changed")
                (download / Path(row.key).name).write_bytes(body)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        typer.echo(f"{row.index}\t{store.uri(row.key) if row.key else f'failed: {row.error}'}")
    if download is not None:
        console.print(f"{sum(bool(row.key) for row in rows)} images in {download}")


@app.command()
def sheet(
    job_id: JobId,
    output: Annotated[Path | None, typer.Option(help="The PNG to write; default: JOB_ID.png")] = None,
    scale: Annotated[int, typer.Option(min=1, max=16, help="Screen pixels a pixel.")] = 2,
) -> None:
    """Write a contact sheet of a job's images: a row for each item."""
    settings, engine = connect("submitter")
    path = output or Path(f"{job_id}.png")
    write_sheet(settings, engine, find(engine, job_id), path, scale=scale)
    console.print(str(path.resolve()))


def write_sheet(settings: Settings, engine: Engine, row: Job, path: Path, *, scale: int = 2) -> None:
    """A contact sheet of a job on disk. Raises CommandError when the job has no image."""
    from services.cli.contact_sheet import contact_sheet
    from services.storage.object_store import ObjectStore

    store = ObjectStore.connect(settings)
    images = [(image.index, store.get(image.key)) for image in _images(engine, row) if image.key]
    if not images:
        raise CommandError(f"job {row.id} has no images ({row.state}{': ' + row.reason if row.reason else ''})")
    assert row.plan is not None
    per_item = row.plan["images_per_item"]
    columns = per_item if 1 < per_item < row.total else min(16, len(images))
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(images, columns=columns, scale=scale).save(path, format="PNG")
