"""`darkroom jobs cancel`, `retry`, `set`, `pause` and `resume`: change submitted jobs."""

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.job_access import find_job, isoformat, parse_time
from services.cli.many_jobs import (
    DryRun,
    InQueue,
    JobIds,
    Model,
    Selection,
    Since,
    States,
    Tags,
    Until,
    for_each_set,
    job_filter,
)
from services.cli.session import AsJson, connect_database
from services.cli.terminal import print_json
from services.errors import CommandError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from services.job_queue.clients import Job

BARS = {  # titles of progress bars
    "cancelled": "cancelling",
    "retried": "retrying",
    "changed": "changing",
    "paused": "pausing",
    "resumed": "resuming",
}
EveryOpen = Annotated[bool, typer.Option("--all", help="Every job that has not ended.")]


def cancel(
    job_ids: JobIds = None,
    every: EveryOpen = False,
    state: States = None,
    tag: Tags = None,
    model: Model = None,
    queue: InQueue = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs, given by their ids or a filter. Their work stops within seconds; finished images are kept."""
    from services.job_queue import clients
    from services.job_queue.job_filters import OPEN

    selection = Selection.of(job_ids, job_filter(state, tag, model, queue, since, until), OPEN, every=every)
    engine = connect_database("submitter")
    job = _single(engine, selection)
    if job is not None and job.has_ended:
        raise CommandError(f"job: {job.id} has already ended ({job.state})")

    def act(connection: "Connection", ids: Sequence[uuid.UUID]) -> int:
        return len(clients.cancel_jobs(connection, ids))

    _run(engine, selection, act, "cancelled", {"cancel_requested": True}, dry_run=dry_run, as_json=as_json)


def retry(
    job_ids: JobIds = None,
    every: Annotated[bool, typer.Option("--all", help="Every job that can be retried.")] = False,
    state: States = None,
    tag: Tags = None,
    model: Model = None,
    queue: InQueue = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Retry failed and missing images of jobs, given by their ids or a filter.

    Finished images are kept.
    """
    from services.job_queue import clients
    from services.job_queue.job_filters import CAN_BE_RETRIED

    which = job_filter(state, tag, model, queue, since, until)
    selection = Selection.of(job_ids, which, CAN_BE_RETRIED, every=every, together=1)
    engine = connect_database("submitter")
    job = _single(engine, selection)
    if job is not None and not job.can_be_retried:
        raise CommandError(
            f"job: {job.id} is {job.state}; only a planned job that ended partial, failed or cancelled can be retried"
        )

    def act(connection: "Connection", ids: Sequence[uuid.UUID]) -> int:
        return sum(clients.retry_job(connection, job_id) > 0 for job_id in ids)

    revision = {} if job is None else {"revision": job.revision + 1}
    _run(engine, selection, act, "retried", revision, dry_run=dry_run, as_json=as_json)


def change(
    job_ids: Annotated[list[str], typer.Argument(help="The ids of one or more jobs.")],
    priority: Annotated[
        int | None, typer.Option(min=-100, max=100, help="Your jobs of higher priorities run first.")
    ] = None,
    deadline: Annotated[str | None, typer.Option(help="Images not finished by this time fail; or none.")] = None,
    tags: Annotated[str | None, typer.Option(help='The tags, separated by commas; "" for none.')] = None,
    as_json: AsJson = False,
) -> None:
    """Change the priority, the deadline or the tags of jobs. What is not given stays unchanged."""
    changes: dict[str, Any] = {} if priority is None else {"priority": priority}
    if deadline is not None:
        changes["deadline"] = None if deadline == "none" else isoformat(parse_time("--deadline", deadline))
    if tags is not None:
        changes["tags"] = [tag for tag in (part.strip() for part in tags.split(",")) if tag]
    if not changes:
        raise CommandError("nothing to change: give --priority, --deadline or --tags")
    from services.job_queue.job_filters import EVERY_JOB, OPEN

    _change(Selection.of(job_ids, EVERY_JOB, OPEN), changes, "changed", dry_run=False, as_json=as_json)


def pause(
    job_ids: JobIds = None,
    every: EveryOpen = False,
    state: States = None,
    tag: Tags = None,
    model: Model = None,
    queue: InQueue = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Pause jobs, given by their ids or a filter. Images that are being made are finished; no others begin."""
    from services.job_queue.job_filters import OPEN

    selection = Selection.of(job_ids, job_filter(state, tag, model, queue, since, until), OPEN, every=every)
    _change(selection, {"paused": True}, "paused", dry_run=dry_run, as_json=as_json)


def resume(
    job_ids: JobIds = None,
    every: EveryOpen = False,
    state: States = None,
    tag: Tags = None,
    model: Model = None,
    queue: InQueue = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Resume paused jobs, given by their ids or a filter."""
    from services.job_queue.job_filters import PAUSED

    selection = Selection.of(job_ids, job_filter(state, tag, model, queue, since, until), PAUSED, every=every)
    _change(selection, {"paused": False}, "resumed", dry_run=dry_run, as_json=as_json)


def _change(selection: Selection, changes: dict[str, Any], participle: str, *, dry_run: bool, as_json: bool) -> None:
    from services.job_queue import clients

    engine = connect_database("submitter")
    job = _single(engine, selection)
    if job is not None and job.has_ended and changes.keys() != {"tags"}:
        raise CommandError(f"job: {job.id} has already ended ({job.state}); only its tags can be changed")

    def act(connection: "Connection", ids: Sequence[uuid.UUID]) -> int:
        open_jobs = clients.change_jobs(connection, ids, changes)
        return len(ids) if changes.keys() == {"tags"} else len(open_jobs)

    _run(engine, selection, act, participle, changes, dry_run=dry_run, as_json=as_json)


def _single(engine: "Engine", selection: Selection) -> "Job | None":
    """Return the job that was named alone. Raises CommandError if there is none of its id."""
    return find_job(engine, str(selection.ids[0])) if len(selection.ids) == 1 else None


def _run(
    engine: "Engine",
    selection: Selection,
    act: Callable[["Connection", Sequence[uuid.UUID]], int],
    participle: str,
    answer: dict[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Act on the selected jobs, or with `dry_run` only count them, and print the answer."""
    if dry_run:
        with engine.connect() as connection:
            count = selection.count(connection)
        answer, message = {"jobs": count, "dry_run": True}, f"Jobs that would be {participle}: {count}."
    else:
        count = for_each_set(engine, selection, act, title=BARS[participle], show_progress=not as_json)
        if len(selection.ids) == 1:
            (job_id,) = selection.ids
            answer, message = {"id": str(job_id), **answer}, f"{job_id} is being {participle}."
        else:
            answer, message = {"jobs": count, **answer}, f"Jobs that are being {participle}: {count}."
    if as_json:
        print_json(answer)
    else:
        typer.echo(message)
