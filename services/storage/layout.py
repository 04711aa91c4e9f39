"""Where objects lie in the bucket."""

import uuid
from collections.abc import Mapping
from typing import Any

BLOBS = "blobs/sha256"

SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def job_prefix(plan: Mapping[str, Any], job_id: uuid.UUID) -> str:
    """Where everything of a job lies."""
    return f"{plan['output_prefix']}/{job_id}"


def image_key(plan: Mapping[str, Any], job_id: uuid.UUID, index: int) -> str:
    """Where image `index` lies."""
    return f"{job_prefix(plan, job_id)}/images/{index:08d}.{SUFFIXES[plan['format']]}"


def blob_key(sha256: str) -> str:
    """Where a file of a release lies in the bucket."""
    return f"{BLOBS}/{sha256[:2]}/{sha256}"
