"""Files of images, as pages and the API send them."""

import uuid
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import Response

from services.console.thumbnails import NotShown, read_image
from services.job_queue.outputs import Output
from services.storage.object_store import ObjectStore

Index = Annotated[int, Path(ge=0, le=2**31 - 1)]
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}  # the bytes of an image never change


def send_image(request: Request, store: ObjectStore, job_id: uuid.UUID, image: Output) -> Response:
    """Return an image as it was stored, or that the client has it. Raises NotShown, and errors of S3."""
    suffix = PurePosixPath(image.key or "").suffix
    if suffix not in TYPES:
        raise NotShown(image.error or f"{suffix} is no format of images")
    headers = {**CACHED, "ETag": f'"{image.sha256}"'}
    if has_copy(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="{job_id}-{image.index:08d}{suffix}"'
    return Response(read_image(store, image), media_type=TYPES[suffix], headers=headers)


def has_copy(request: Request, tag: str) -> bool:
    """Return whether the client has what an ETag names."""
    given = request.headers.get("if-none-match", "")
    return tag in (one.strip().removeprefix("W/") for one in given.split(","))
