"""A cache of releases on disk: each is fetched from S3 once, and the least recently used are removed to make room."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.storage.layout import blob_key
from services.storage.object_store import ObjectStore
from training.model import release as release_format

log = logging.getLogger("darkroom.release_cache")

KEPT_S = 600.0  # another process may still read a release that was used within this time


def fetch(store: ObjectStore, manifest: Mapping[str, Any], cache_dir: Path, cache_gb: float) -> Path:
    """Return the folder of a release in the cache, and fetch it from S3 if it is not there.

    Other releases are removed first, until all together need at most `cache_gb` GiB. The complete folder is renamed
    into its place, so that a killed fetch leaves no incomplete release. Raises ObjectStoreError and ReleaseError.
    """
    release = release_format.parse(manifest)
    releases = cache_dir / "releases"
    folder = releases / release.digest
    if folder.is_dir():
        os.utime(folder)
        return folder
    releases.mkdir(parents=True, exist_ok=True)
    _make_room(releases, cache_gb * 2**30 - sum(record.bytes for record in release.files.values()))
    workplace = Path(tempfile.mkdtemp(prefix="fetch-", dir=releases))
    try:
        for name, record in release.files.items():
            store.download(blob_key(record.sha256), workplace / Path(name).name)
        (workplace / release_format.MANIFEST).write_text(json.dumps(manifest))
        release_format.read(workplace)
        try:
            os.rename(workplace, folder)
        except OSError:
            if not folder.is_dir():  # If it is there, another process fetched it first.
                raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return folder


def _make_room(releases: Path, room: float) -> None:
    """Remove the least recently used folders until the rest need at most `room` bytes.

    This also removes the folders of killed fetches, which nobody uses either.
    """
    folders = {}
    for folder in releases.iterdir():
        try:
            folders[folder] = folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir())
        except OSError:  # Another process is renaming or removing it.
            continue
    total = sum(size for _, size in folders.values())
    for folder, (used, size) in sorted(folders.items(), key=lambda entry: entry[1][0]):
        if total <= room or time.time() - used < KEPT_S:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size
        log.info("removed %s from the cache: %.2f GiB for other releases", folder.name, size / 2**30)
