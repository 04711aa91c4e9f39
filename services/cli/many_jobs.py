"""Applies a change to many jobs, in sets that are committed one by one."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.job_access import parse_job_id, parse_time
from services.errors import CommandError, quote

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from services.job_queue.job_filters import JobFilter

LONG = 1_000  # jobs from which a command shows its progress

JobIds = Annotated[list[str] | None, typer.Argument(help="The ids of one or more jobs.")]
States = Annotated[list[str] | None, typer.Option("--state", help="Jobs in this state; may be repeated.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Jobs with this tag; repeat it to require several tags.")]
Model = Annotated[str | None, typer.Option(help="Jobs of this release: a name, or name@alias as it was submitted.")]
InQueue = Annotated[str | None, typer.Option("--queue", help="Jobs in this queue.")]
Since = Annotated[str | None, typer.Option(help="Jobs submitted at this time or later, such as 2030-01-31T18:00.")]
Until = Annotated[str | None, typer.Option(help="Jobs submitted before this time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the jobs.")]


def job_filter(
    states: list[str] | None,
    tags: list[str] | None,
    model: str | None,
    queue: str | None,
    since: str | None,
    until: str | None,
) -> "JobFilter":
    """Return the filter that a command's options give. Raises CommandError for a state or a time that is none."""
    from services.job_queue.job_filters import JobFilter
    from services.job_queue.states import JobState

    for state in states or ():
        if state not in set(JobState):
            raise CommandError(f"--state: {quote(state)} is not a state; permitted: {', '.join(JobState)}")
    return JobFilter(
        tuple(map(JobState, states or ())),
        tuple(tags or ()),
        model,
        queue,
        parse_time("--since", since),
        parse_time("--until", until),
    )


@dataclass(frozen=True)
class Selection:
    """Jobs by their ids, or those that a filter finds at the time. only: which of those; see `find_jobs`.

    together: jobs of one transaction.
    """

    ids: Sequence[uuid.UUID]
    which: "JobFilter"
    only: str
    together: int

    @classmethod
    def of(
        cls, job_ids: list[str] | None, which: "JobFilter", only: str, *, every: bool = False, together: int = 1_000
    ) -> "Selection":
        """Return what a command's arguments select. Raises CommandError unless they give ids, or a filter, or --all."""
        from services.job_queue.job_filters import EVERY_JOB

        if bool(job_ids) + every + (which != EVERY_JOB) != 1:
            raise CommandError("give the ids of jobs, or a filter such as --state or --tag, or --all")
        return cls([parse_job_id(job_id) for job_id in dict.fromkeys(job_ids or ())], which, only, together)

    def count(self, connection: "Connection") -> int:
        """Return how many jobs are meant now."""
        from services.job_queue.job_filters import count_jobs

        return len(self.ids) or count_jobs(connection, self.which, self.only)

    def sets(self, engine: "Engine") -> Iterator[Sequence[uuid.UUID]]:
        """Yield the jobs in sets; those of a filter also if they are submitted meanwhile."""
        from services.job_queue.job_filters import find_jobs

        if self.ids:
            yield from _cut(self.ids, self.together)
            return
        last = None
        while True:
            with engine.connect() as connection:
                found = find_jobs(connection, self.which, self.only, after=last)
            if not found:
                return
            yield from _cut(found, self.together)
            last = found[-1]


def _cut(ids: Sequence[uuid.UUID], size: int) -> Iterator[Sequence[uuid.UUID]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def for_each_set(
    engine: "Engine",
    selection: Selection,
    act: Callable[["Connection", Sequence[uuid.UUID]], int],
    *,
    title: str,
    show_progress: bool,
) -> int:
    """Call `act` with set after set, each in a transaction. Returns the sum of what it returns."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with engine.connect() as connection:
        total = selection.count(connection)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    is_long = show_progress and total > LONG
    done = 0
    with Progress(*columns, console=Console(stderr=True), disable=not is_long) as progress:
        bar = progress.add_task(title, total=total)
        for job_ids in selection.sets(engine):
            with engine.begin() as connection:
                done += act(connection, job_ids)
            progress.update(bar, advance=len(job_ids))
    return done
