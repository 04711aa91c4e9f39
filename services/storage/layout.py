"""The keys of outputs and of released files in the bucket."""

import uuid

BLOBS = "blobs/sha256"
STAGES = "stages"

SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def job_prefix(output_prefix: str, job_id: uuid.UUID) -> str:
    """Return the prefix of everything that a job writes."""
    return f"{output_prefix}/{job_id}"


def image_key(output_prefix: str, job_id: uuid.UUID, index: int, image_format: str, name: str | None = None) -> str:
    """Return the key of image `index`, which may have a name of its own."""
    return f"{job_prefix(output_prefix, job_id)}/images/{name or f'{index:08d}'}.{SUFFIXES[image_format]}"


def stage_prefix(job_prefix: str, revision: int, stage: int) -> str:
    """Return the prefix of the images of a stage of a chain that is not the last.

    Each revision has its own: what ends one late removes nothing of the next.
    """
    return f"{job_prefix}/{STAGES}{'' if revision == 1 else f'-r{revision}'}/{stage}/"


def input_key(write_prefix: str, job_id: uuid.UUID, token: int) -> str:
    """Return the key, without its suffix, of what planning under a lease unpacks an input to."""
    return f"{job_prefix(write_prefix, job_id)}/input-{token}"


def thumbnail_key(key: str) -> str:
    """Return the key of the thumbnail of an image."""
    prefix, name = key.rsplit("/images/", 1)
    return f"{prefix}/thumbnails/{name}"


def blob_key(sha256: str) -> str:
    """Return the key of a released file, which is named by its content."""
    return f"{BLOBS}/{sha256[:2]}/{sha256}"
