"""Releases on this machine's disk: fetched from S3 once, the least recently used removed when room is needed."""

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

SPARED_S = 600.0  # a release used so lately may be about to be read by another process


def fetch(store: ObjectStore, manifest: Mapping[str, Any], cache_dir: Path, cache_gb: float) -> Path:
    """The folder of a release in the cache, fetched from S3 unless it is there already.

    The folder appears by a rename once it is complete, so that a killed fetch leaves nothing half-done. Before it,
    other releases are removed until all together take no more than `cache_gb` GiB.
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
            if not folder.is_dir():  # otherwise another process fetched it first
                raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return folder


def _make_room(releases: Path, room: float) -> None:
    """Remove the folders that were used longest ago until the rest take no more than `room` bytes.

    What fetches that were killed left behind goes the same way: it too is a folder that nobody has used for long.
    """
    found = {}
    for folder in releases.iterdir():
        try:
            found[folder] = folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir())
        except OSError:  # another process renames or removes it at this moment
            continue
    held = sum(size for _, size in found.values())
    for folder, (used, size) in sorted(found.items(), key=lambda entry: entry[1][0]):
        if held <= room or time.time() - used < SPARED_S:
            return
        shutil.rmtree(folder, ignore_errors=True)
        held -= size
        log.info("removed %s from the cache: %.2f GiB for other releases", folder.name, size / 2**30)
