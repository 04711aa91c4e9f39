"""Files of images, as pages and the API send them."""

import uuid
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import Path
from fastapi.responses import Response

from services.console.thumbnails import NotShown, read_image
from services.job_queue.outputs import Output
from services.storage.object_store import ObjectStore

Index = Annotated[int, Path(ge=0, le=2**31 - 1)]
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}  # the bytes of an image never change


def send_image(store: ObjectStore, job_id: uuid.UUID, image: Output) -> Response:
    """Return an image as it was stored. Raises NotShown, and errors of S3."""
    suffix = PurePosixPath(image.key or "").suffix
    if suffix not in TYPES:
        raise NotShown(image.error or f"{suffix} is no format of images")
    name = f'inline; filename="{job_id}-{image.index:08d}{suffix}"'
    body = read_image(store, image)
    return Response(body, media_type=TYPES[suffix], headers={**CACHED, "Content-Disposition": name})
