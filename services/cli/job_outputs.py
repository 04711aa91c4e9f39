"""Downloads or links the images, manifest and listings of a job."""

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from services.cli.terminal import print_json
from services.client.image import Image
from services.client.sql_backend import StoredFiles
from services.errors import CommandError
from services.job_queue.clients import Job
from services.job_queue.outputs import Output
from services.storage.links import LONGEST, sign_link
from services.storage.object_store import ObjectStore

PATIENCE_S = 30.0
DOWNLOADS = 8  # at once
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LIFETIME = re.compile(r"([1-9][0-9]{0,5})([smhd])")


def parse_lifetime(option: str, text: str) -> timedelta:
    """Return a time such as 30m, 12h or 7d. Raises CommandError if it is none, or longer than S3 permits."""
    match = LIFETIME.fullmatch(text)
    lifetime = timedelta(**{UNITS[match[2]]: int(match[1])}) if match else None
    if lifetime is None or lifetime > LONGEST:
        raise CommandError(f"{option}: {text!r} is not allowed; permitted: 1s to 7d, such as 30m, 12h or 7d")
    return lifetime


def download_outputs(
    store: ObjectStore, job: Job, outputs: Sequence[Output], folder: Path, *, show_progress: bool
) -> None:
    """Write the images of a job to a folder, and its manifest and listings if it has ended.

    Raises ClientError if an object is gone or was changed.
    """
    from rich.console import Console
    from rich.progress import track

    files = StoredFiles(store, PATIENCE_S)
    images = [Image.of_output(output, job.id, files) for output in outputs if output.key]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(DOWNLOADS) as threads:
        saved = threads.map(lambda image: image.save(folder), images)
        for _ in track(
            saved, "downloading", len(images), console=Console(stderr=True), disable=not show_progress, transient=True
        ):
            pass
    if job.manifest_key is not None:
        manifest = store.get(job.manifest_key)
        _download_listings(store, job.manifest_key, manifest, folder)


def _download_listings(store: ObjectStore, key: str, manifest: bytes, folder: Path) -> None:
    """Write the listings that a manifest names to a folder, and last the manifest: it names what must be there."""
    named = json.loads(manifest)
    for listing in (*named["outputs"], named["errors"]):
        store.download(listing, folder / Path(listing).name)
    (folder / Path(key).name).write_bytes(manifest)


def show_archives(
    store: ObjectStore, job: Job, folder: Path | None, lifetime: timedelta | None, *, as_json: bool
) -> None:
    """Print where the archives of a job are, and download them to a folder with the manifest and the listings.

    lifetime: of links, None for none. Raises CommandError if the job has no archives.
    """
    manifest = b"{}" if job.manifest_key is None else store.get(job.manifest_key)
    found: list[dict[str, Any]] = json.loads(manifest).get("archives", [])
    if not found:
        wanted = '"output": {"archive": "tar"} in a request asks for them'
        state = f"it is {job.state}; a job has them at its end" if job.manifest_key is None else wanted
        raise CommandError(f"job {job.id} has no archives: {state}")
    if folder is not None:
        assert job.manifest_key is not None
        folder.mkdir(parents=True, exist_ok=True)
        for archive in found:
            store.download(archive["key"], folder / Path(archive["key"]).name)
        _download_listings(store, job.manifest_key, manifest, folder)
    links = [{"link": sign_link(store, archive["key"], lifetime)} if lifetime else {} for archive in found]
    if as_json:
        print_json([{**archive, **link} for archive, link in zip(found, links, strict=True)])
        return
    for archive, link in zip(found, links, strict=True):
        typer.echo(f"{archive['images']}\t{archive['bytes']}\t{link.get('link') or store.uri(archive['key'])}")
    if folder is not None:
        typer.echo(f"{len(found)} archives in {folder}")
