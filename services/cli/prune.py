"""`darkroom prune`: deletes what is past its retention. Run it once a day."""

from datetime import timedelta
from typing import Annotated

import typer

from services.cli.session import AsJson, connect
from services.cli.terminal import print_json


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    blobs_older_than_hours: Annotated[
        float, typer.Option(min=0, help="Keep younger blobs and uploads: they may belong to a release being published.")
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Delete expired jobs, unused blobs and unfinished uploads.

    A job expires after its tenant's retention (darkroom tenants set NAME --retention-days). Jobs are deleted with
    their images. The images of earlier stages of ended chains are deleted, unless the request keeps them. Uploads that
    killed processes left unfinished are aborted at the age of --blobs-older-than-hours. Entries of processes that ended
    more than a week ago are deleted.
    """
    from services import retention
    from services.storage.object_store import ObjectStore

    settings, engine = connect("pruner")
    store = ObjectStore.connect(settings)
    older = timedelta(hours=blobs_older_than_hours)
    if dry_run:
        expired = list(retention.list_expired(engine))
        with engine.connect() as connection:
            unreferenced = len(retention.unreferenced_blobs(connection, store, older))
        if as_json:
            print_json({"dry_run": True, "jobs": [job.id for job in expired], "blobs": unreferenced})
            return
        for job in expired:
            typer.echo(f"job {job.id} of {job.tenant}, {job.images} images")
        typer.echo(f"{len(expired)} jobs and {unreferenced} blobs would be deleted.")
        return
    deleted = []
    for job in retention.prune_jobs(engine, store):
        deleted.append(job.id)
        if not as_json:
            typer.echo(f"deleted job {job.id} of {job.tenant}, {job.images} images")
    stages = retention.prune_stages(engine, store)
    blobs = retention.prune_blobs(engine, store, older)
    uploads = retention.abort_uploads(engine, store, older)
    processes = retention.prune_processes(engine)
    if as_json:
        counts = {"stage_images": stages, "blobs": blobs, "uploads": uploads, "processes": processes}
        print_json({"dry_run": False, "jobs": deleted, **counts})
        return
    about_blobs = "no blobs (a release is being published)" if blobs is None else f"{blobs} blobs"
    typer.echo(
        f"Deleted {len(deleted)} jobs, {stages} images of stages, {about_blobs}, {uploads} unfinished uploads "
        f"and the entries of {processes} processes."
    )
