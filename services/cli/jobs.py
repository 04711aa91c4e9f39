"""`darkroom jobs`: submit jobs, follow them, and download their images."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.job_access import (
    TIME_EXAMPLE,
    find_job,
    isoformat,
    job_to_json,
    parse_request,
    parse_time,
    wait_for_job,
)
from services.cli.job_changes import cancel, change, pause, resume, retry
from services.cli.job_estimate import estimate
from services.cli.many_jobs import InQueue, Model, Since, States, Tags, Until, job_filter
from services.cli.session import AsJson, connect, connect_database
from services.cli.terminal import print_json, print_table
from services.cli.text_files import read_text
from services.errors import EXIT_NOT_SUCCEEDED, CommandError

if TYPE_CHECKING:
    from services.job_queue.clients import JobSummary

app = command_group(COMMANDS["jobs"].help)
app.command()(estimate)
for command, name in ((cancel, "cancel"), (retry, "retry"), (change, "set"), (pause, "pause"), (resume, "resume")):
    app.command(name)(command)

JobId = Annotated[str, typer.Argument(help="The id that `submit` printed.")]


@app.command()
def submit(
    model: Annotated[
        list[str],
        typer.Option(help="The release: name, name@alias or name@version. Repeated: a job for each, with equal seeds."),
    ],
    request: Annotated[str, typer.Option(help="The request as JSON, or - to read it from standard input.")],
    queue: Annotated[str, typer.Option(help="The queue.")] = "default",
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Your jobs of higher priorities run first.")] = 0,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submitting the same key again returns the same job.")
    ] = None,
    run_after: Annotated[
        str | None, typer.Option(help=f"Do not start before this time, such as {TIME_EXAMPLE}.")
    ] = None,
    deadline: Annotated[str | None, typer.Option(help="Images not finished by this time fail.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag to find the job by; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job and print its id.

    The command does one INSERT, which a client can do in any language. Of several releases, all jobs are submitted or
    none; `darkroom jobs sheet` draws them side by side.
    """
    if len(model) > 1 and idempotency_key is not None:
        raise CommandError(f"--idempotency-key: names one job; permitted: with one --model, and not {len(model)}")
    job = {
        "request": parse_request(request),
        "queue": queue,
        "priority": priority,
        "idempotency_key": idempotency_key,
        "run_after": isoformat(parse_time("--run-after", run_after)),
        "deadline": isoformat(parse_time("--deadline", deadline)),
        "tags": tags or [],
    }
    from services.job_queue import clients
    from services.job_requests.siblings import sibling_jobs

    engine = connect_database("submitter")
    with engine.begin() as connection:
        ids = [str(job_id) for job_id in clients.submit_jobs(connection, sibling_jobs(model, job))]
    if as_json:
        print_json({"id": ids[0]} if len(ids) == 1 else {"ids": ids})
    else:
        typer.echo("\n".join(ids))


@app.command("submit-many")
def submit_many(
    file: Annotated[Path, typer.Argument(help="JSON Lines, one job per line: model, request and optional fields.")],
    as_json: AsJson = False,
) -> None:
    """Submit many jobs in one transaction, all or none, and print their ids."""
    from services.job_queue import clients

    jobs = read_jobs(file)
    engine = connect_database("submitter")
    with engine.begin() as connection:
        ids = [str(job_id) for job_id in clients.submit_jobs(connection, jobs)]
    if as_json:
        print_json({"ids": ids})
    else:
        for job_id in ids:
            typer.echo(job_id)


def read_jobs(file: Path) -> list[Any]:
    """Return the jobs in a file of JSON Lines. Raises CommandError, which names the line, if one is not JSON."""
    from services.job_requests.strict_json import RequestError, parse_json

    jobs: list[Any] = []
    text = read_text("FILE", file).removesuffix("\n")
    for number, line in enumerate(text.split("\n") if text else (), 1):
        try:
            jobs.append(parse_json(line))
        except RequestError as error:
            raise CommandError(f"FILE: {file}, line {number}: {error}; nothing was submitted") from None
    return jobs


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many jobs to list.")] = 20,
    state: States = None,
    tag: Tags = None,
    model: Model = None,
    queue: InQueue = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from services.job_queue import job_filters

    which = job_filter(state, tag, model, queue, since, until)
    engine = connect_database("submitter")
    with engine.connect() as connection:
        rows = job_filters.list_jobs(connection, limit, which)
    if as_json:
        print_json([job_to_json(row) for row in rows])
    elif not rows and which != job_filters.EVERY_JOB:
        typer.echo("No jobs match the filter.")
    elif not rows:
        typer.echo("There are no jobs. Submit one with: darkroom jobs submit; see its --help")
    else:
        print_table(("job", "model", "state", "images", "submitted", "reason"), map(summary_row, rows))


def summary_row(job: "JobSummary") -> tuple[str, ...]:
    """Return a job's row of the table. A reason of several lines is cut after the first; `jobs show` has them all."""
    images = f"{job.succeeded}/{job.total}" + (f" ({job.failed} failed)" if job.failed else "")
    first, *others = (job.reason or "").splitlines() or [""]
    reason = f"{first} (more: darkroom jobs show)" if others else first
    state = f"{job.state} (paused)" if job.paused and not job.has_ended else job.state
    return str(job.id), job.model, state, images, f"{job.created_at:%Y-%m-%d %H:%M:%S}", reason


@app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job: state, counts, stages of a chain, and errors."""
    from services.job_queue import chains

    settings, engine = connect("submitter")
    found = find_job(engine, job_id)
    job = job_to_json(found)
    with engine.connect() as connection:
        stages = chains.list_stages(connection, found.id)
    if stages:
        job["stages"] = [asdict(stage) for stage in stages]
    if as_json:
        print_json(job)
        return
    if job["manifest_key"]:
        job["manifest_key"] = f"s3://{settings.s3_bucket}/{job['manifest_key']}"
    if stages:
        job["stages"] = [f"{stage.made} of {stage.model}" for stage in stages]
    print_table((), [(name.replace("_", " "), _cell(value)) for name, value in job.items()])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(value)
    return json.dumps(value) if isinstance(value, dict) else str(value)


@app.command()
def watch(job_id: JobId, as_json: AsJson = False) -> None:
    """Follow a job to its end. Exit code 3 unless it succeeded."""
    job = wait_for_job(connect_database("submitter"), job_id, show_progress=not as_json)
    if as_json:
        print_json(job_to_json(job))
    else:
        typer.echo(f"{job.state}: {job.succeeded} of {job.total} images" + (f"\n{job.reason}" if job.reason else ""))
    if not job.has_succeeded:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


@app.command()
def outputs(
    job_id: JobId,
    download: Annotated[
        Path | None, typer.Option(help="A folder for the images, the manifest and the listings.")
    ] = None,
    archives: Annotated[
        bool, typer.Option("--archives", help="List or download the job's archives instead of its images.")
    ] = False,
    links: Annotated[
        str | None, typer.Option(metavar="TIME", help="Print links that expire after a time such as 30m, 12h or 7d.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the images of a job and their errors. With --download, also download the images and check their sha256."""
    from services.cli.job_outputs import download_outputs, parse_lifetime, show_archives
    from services.job_queue.outputs import list_outputs
    from services.storage.links import sign_link
    from services.storage.object_store import ObjectStore

    lifetime = None if links is None else parse_lifetime("--links", links)
    settings, engine = connect("submitter")
    job = find_job(engine, job_id)
    if archives:
        show_archives(ObjectStore.connect(settings), job, download, lifetime, as_json=as_json)
        return
    with engine.connect() as connection:
        rows = list_outputs(connection, job.id)
    store = ObjectStore.connect(settings)
    signed = {row.index: sign_link(store, row.key, lifetime) for row in rows if row.key and lifetime}
    if download is not None:
        download_outputs(store, job, rows, download, show_progress=not as_json)
    if as_json:
        print_json([{**asdict(row), **({"link": signed.get(row.index)} if lifetime else {})} for row in rows])
        return
    for row in rows:
        place = (signed.get(row.index) or store.uri(row.key)) if row.key else f"failed: {row.error}"
        typer.echo(f"{row.index}\t{place}")
    if download is not None:
        typer.echo(f"{sum(bool(row.key) for row in rows)} images in {download}")


@app.command()
def sheet(
    job_ids: Annotated[list[str], typer.Argument(help="The id that `submit` printed; several: side by side.")],
    output: Annotated[Path | None, typer.Option(help="The PNG to write; default: JOB_ID.png.")] = None,
    scale: Annotated[int, typer.Option(min=1, max=16, help="Enlargement factor.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Write a contact sheet of a job's images, with a row for each item.

    Of several jobs with the same items, each has columns of its own, labelled with its release.
    """
    from services.cli.contact_sheet import write_job_sheet, write_sheet_of_jobs

    settings, engine = connect("submitter")
    jobs = [find_job(engine, job_id) for job_id in job_ids]
    path = output or Path(f"{job_ids[0]}.png")
    if len(jobs) == 1:
        write_job_sheet(settings, engine, jobs[0], path, scale=scale)
    else:
        write_sheet_of_jobs(settings, engine, jobs, path, scale=scale)
    if as_json:
        print_json({"path": str(path.resolve())})
    else:
        typer.echo(path.resolve())
