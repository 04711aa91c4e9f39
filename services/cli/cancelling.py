"""Cancel many jobs, in sets that are committed one by one."""

import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine


def cancel_jobs(engine: "Engine", job_ids: Sequence[uuid.UUID], *, show_progress: bool) -> int:
    """Ask that jobs stop, and return how many of them had not ended."""
    from services.job_queue.clients import TOGETHER

    sets = (job_ids[start : start + TOGETHER] for start in range(0, len(job_ids), TOGETHER))
    return _cancel(engine, sets, len(job_ids), show_progress=show_progress)


def cancel_all(engine: "Engine", *, show_progress: bool) -> int:
    """Ask that every job of the tenant stops, also one that is submitted meanwhile. Returns how many had not ended."""
    from services.job_queue import clients

    def open_jobs() -> Iterator[Sequence[uuid.UUID]]:
        last = None
        while True:
            with engine.connect() as connection:
                found = clients.open_jobs(connection, after=last)
            if not found:
                return
            yield found
            last = found[-1]

    with engine.connect() as connection:
        total = clients.count_open_jobs(connection)
    return _cancel(engine, open_jobs(), total, show_progress=show_progress)


def _cancel(engine: "Engine", sets: Iterator[Sequence[uuid.UUID]], total: int, *, show_progress: bool) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from services.job_queue import clients

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    is_long = show_progress and total > clients.TOGETHER
    cancelled = 0
    with Progress(*columns, console=Console(stderr=True), disable=not is_long) as progress:
        bar = progress.add_task("cancelling", total=total)
        for job_ids in sets:
            with engine.begin() as connection:
                cancelled += len(clients.cancel_jobs(connection, job_ids))
            progress.update(bar, advance=len(job_ids))
    return cancelled
