"""A version for KFP's cache, which changes when the images under the same name change.

KFP's cache compares the arguments of a stage, and a path or prefix stays the same when images are added to it.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from services.storage.object_store import ObjectStore
from services.storage.uri import ObjectUri
from training.errors import DarkroomError

ROOT = "data.root="
OpenStore = Callable[[str], ObjectStore]


class DataVersionError(DarkroomError):
    """The images cannot be listed; the message says where, and what to do."""


def find_version(data: str, overrides: Sequence[str], open_store: OpenStore) -> str:
    """Return a text that changes with the images.

    Images that cannot be listed from here, such as those on a pod's volume, have a new version each time.
    open_store: opens a bucket; called only for images in S3. Raises DataVersionError for an empty or unreadable prefix.
    """
    roots = [one.removeprefix(ROOT).strip("'\"") for one in overrides if one.startswith(ROOT)]
    if not roots:
        return ""  # a built-in image set, which is part of the image that runs the stage
    root = roots[-1]
    if (uri := ObjectUri.parse(root)) is not None:
        return digest(list_objects(open_store(uri.bucket), uri))
    if Path(root).exists():
        paths = sorted(path for path in [Path(root), *Path(root).rglob("*")] if path.is_file())
        return digest(f"{path}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}" for path in paths)
    return uuid.uuid4().hex


def digest(parts: Iterable[str]) -> str:
    """Return the sha256 of texts in their order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() + b"\n")
    return found.hexdigest()


def list_objects(store: ObjectStore, uri: ObjectUri) -> list[str]:
    """Return key and etag of each object under a prefix. Raises DataVersionError if there are none."""
    try:
        pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=uri.bucket, Prefix=uri.key)
        found = [f"{entry['Key']}\0{entry['ETag']}" for page in pages for entry in page.get("Contents", ())]
    except (BotoCoreError, ClientError) as error:
        raise DataVersionError(f"data.root: {uri} cannot be listed: {error}") from None
    if not found:
        raise DataVersionError(f"data.root: there are no objects under {uri}")
    return found
