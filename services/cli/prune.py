"""`darkroom prune`: what is past its retention, once a day."""

from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console

from services.cli.session import connect

console = Console(highlight=False, soft_wrap=True)


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    blobs_older_than_hours: Annotated[
        float, typer.Option(min=0, help="Blobs that no release needs stay so long, for whoever uploads them now.")
    ] = 24,
) -> None:
    """Remove jobs past their tenant's retention (darkroom tenants set NAME --retention-days), and unneeded blobs."""
    from services import retention
    from services.job_queue.expiry import expired_jobs
    from services.storage.object_store import ObjectStore

    settings, engine = connect("pruner")
    store = ObjectStore.connect(settings)
    older = timedelta(hours=blobs_older_than_hours)
    if dry_run:
        with engine.connect() as connection:
            jobs = expired_jobs(connection)
            blobs = len(retention.unreferenced_blobs(connection, store, older))
        for job in jobs:
            console.print(f"job {job.id} of {job.tenant}, {job.images} images")
        console.print(f"{len(jobs)} jobs and {blobs} blobs would go.")
        return
    count = 0
    for job in retention.prune_jobs(engine, store):
        console.print(f"job {job.id} of {job.tenant}, {job.images} images: gone")
        count += 1
    removed = retention.prune_blobs(engine, store, older)
    told = "no blobs, for a release is being published" if removed is None else f"{removed} blobs"
    processes = retention.prune_processes(engine)
    console.print(f"{count} jobs, {told} and the entries of {processes} processes are gone.")
