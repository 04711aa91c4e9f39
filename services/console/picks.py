"""Picked images as a ZIP that the data stage of a training reads: images, and metadata.jsonl with their labels."""

import io
import json
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import Any

from fastapi.responses import Response, StreamingResponse
from sqlalchemy import Connection

from services.console.thumbnails import NotShown, read_image
from services.job_queue import ratings, viewing
from services.storage.object_store import ObjectStore

METADATA = "metadata.jsonl"
TEXT_FIELDS = ("caption", "text", "prompt")
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest of a ZIP: the same picks are the same bytes

Items = Mapping[int, Mapping[str, Any]]
Batches = Callable[[], Iterator[tuple[Sequence[ratings.Pick], Items]]]
Begin = Callable[[], AbstractContextManager[Connection]]
AT_ONCE = 200  # picks of a transaction


class _Sink(io.RawIOBase):
    """What was written since the last `take`; it cannot seek, so that the ZIP needs no memory for what is sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return what was written, and forget it."""
        taken, self._parts = b"".join(self._parts), []
        return taken


def send_set(store: ObjectStore, begin: Begin, job_id: uuid.UUID, rating: int) -> Response:
    """Send the images of a job that are rated so or better as a ZIP, as they are read from S3."""

    def batches() -> Iterator[tuple[Sequence[ratings.Pick], Items]]:
        last = -1
        while True:
            with begin() as connection:
                picks = ratings.list_picks(connection, job_id, rating, last, AT_ONCE)
                if not picks:
                    return
                items = viewing.find_items(connection, job_id, (pick.image.item for pick in picks))
            yield picks, items
            last = picks[-1].image.index

    headers = {"Content-Disposition": f'attachment; filename="picks-{job_id}.zip"'}
    return StreamingResponse(write_set(store, batches), media_type="application/zip", headers=headers)


def write_set(store: ObjectStore, batches: Batches) -> Iterator[bytes]:
    """Yield the bytes of a ZIP of picks. An image that is gone or was replaced is left out, and is not listed.

    batches: yields picks with the items of their job, by number.
    """
    sink, lines = _Sink(), io.StringIO()
    with zipfile.ZipFile(sink, "w") as archive:  # images are compressed already
        for picks, items in batches():
            for pick in picks:
                try:
                    body = read_image(store, pick.image)
                except NotShown:
                    continue
                name = f"images/{PurePosixPath(pick.image.key or '').name}"
                archive.writestr(zipfile.ZipInfo(name, DATE), body)
                lines.write(json.dumps(describe_pick(name, pick, items.get(pick.image.item, {})), ensure_ascii=False))
                lines.write("\n")
                yield sink.take()
        archive.writestr(zipfile.ZipInfo(METADATA, DATE), lines.getvalue())
    yield sink.take()


def describe_pick(name: str, pick: ratings.Pick, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of metadata.jsonl of a pick: its class and caption, and what made it."""
    text = next((item[field] for field in TEXT_FIELDS if isinstance(item.get(field), str)), None)
    label = item.get("class_label")
    return {
        "file_name": name,
        **({} if text is None else {"text": text}),
        **({} if label is None else {"label": str(label)}),
        "rating": pick.rating,
        "seed": pick.image.seed,
        "sha256": pick.image.sha256,
    }
