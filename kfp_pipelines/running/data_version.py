"""What tells KFP's cache that images under the same name are other ones.

The cache compares a stage's arguments, and an address stays the same when pictures are added behind it.
"""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from services.storage.uri import ObjectUri
from training.errors import DarkroomError

ROOT = "data.root="


class DataVersionError(DarkroomError):
    """Images that cannot be listed; the message says where, and what to do."""


def of(data: str, overrides: Sequence[str]) -> str:
    """A text that changes with the images; for what cannot be listed from here, such as a pod's volume, always.

    Raises DataVersionError for a prefix of S3 that is empty or may not be listed.
    """
    roots = [one.removeprefix(ROOT).strip("'\"") for one in overrides if one.startswith(ROOT)]
    if not roots:
        return ""  # built in: the image that runs the stage has it
    root = roots[-1]
    if (uri := ObjectUri.parse(root)) is not None:
        return digest(_objects(uri))
    if Path(root).exists():
        paths = sorted(path for path in [Path(root), *Path(root).rglob("*")] if path.is_file())
        return digest(f"{path}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}" for path in paths)
    return uuid.uuid4().hex


def digest(parts: Iterable[str]) -> str:
    """The sha256 of texts in their order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() + b"\n")
    return found.hexdigest()


def _objects(uri: ObjectUri) -> list[str]:
    from botocore.exceptions import BotoCoreError, ClientError

    from services.settings import load_store
    from services.storage.object_store import ObjectStore

    client = ObjectStore.connect(load_store(), uri.bucket).client
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=uri.bucket, Prefix=uri.key)
        found = [f"{entry['Key']}\0{entry['ETag']}" for page in pages for entry in page.get("Contents", ())]
    except (BotoCoreError, ClientError) as error:
        raise DataVersionError(f"data.root: {uri} cannot be listed: {error}") from None
    if not found:
        raise DataVersionError(f"data.root: there is nothing under {uri}")
    return found
