"""The objects of a job, on this machine: its images, its manifest and its listings."""

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from services.client.image import Image
from services.errors import CommandError
from services.job_queue.clients import Job
from services.job_queue.outputs import Output
from services.storage.links import LONGEST
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
    """Write the images of a job to a folder, and beside them its manifest and listings if it has ended.

    Raises ClientError if an object is gone or was changed.
    """
    from rich.console import Console
    from rich.progress import track

    images = [Image.of_output(output, store, PATIENCE_S) for output in outputs if output.key]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(DOWNLOADS) as threads:
        saved = threads.map(lambda image: image.save(folder), images)
        for _ in track(
            saved, "downloading", len(images), console=Console(stderr=True), disable=not show_progress, transient=True
        ):
            pass
    if job.manifest_key is not None:
        manifest = store.get(job.manifest_key)
        named = json.loads(manifest)
        for key in (*named["outputs"], named["errors"]):
            store.download(key, folder / Path(key).name)
        (folder / Path(job.manifest_key).name).write_bytes(manifest)  # last: it names what must be there
