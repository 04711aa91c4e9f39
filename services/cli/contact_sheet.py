"""Contact sheets of a job's images."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from services.errors import CommandError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from services.job_queue.clients import Job
    from services.settings import Settings

GAP = 2  # pixels between images


def contact_sheet(images: Sequence[tuple[int, bytes]], *, columns: int, scale: int = 1) -> Image.Image:
    """Return a sheet of images, each given as its index and its file. Image i is in row i // columns.

    With the job's images_per_item columns, each item has one row. Missing images leave a gap.
    """
    decoded = {index: Image.open(io.BytesIO(body)).convert("RGB") for index, body in images}
    width, height = next(iter(decoded.values())).size
    cell_width, cell_height = width * scale, height * scale
    rows = max(decoded) // columns + 1
    sheet = Image.new("RGB", (columns * (cell_width + GAP) + GAP, rows * (cell_height + GAP) + GAP), "white")
    for index, image in decoded.items():
        row, column = divmod(index, columns)
        cell = image.resize((cell_width, cell_height), Image.Resampling.NEAREST)
        sheet.paste(cell, (GAP + column * (cell_width + GAP), GAP + row * (cell_height + GAP)))
    return sheet


def write_job_sheet(settings: "Settings", engine: "Engine", job: "Job", path: Path, *, scale: int = 2) -> None:
    """Write the contact sheet of a job as a PNG. Raises CommandError if the job has no images."""
    from services.job_queue.outputs import list_outputs
    from services.storage.object_store import ObjectStore

    store = ObjectStore.connect(settings)
    with engine.connect() as connection:
        outputs = list_outputs(connection, job.id)
    images = [(output.index, store.get(output.key)) for output in outputs if output.key]
    if not images:
        raise CommandError(f"job {job.id} has no images ({job.state}{': ' + job.reason if job.reason else ''})")
    assert job.plan is not None  # a job with images has been planned
    per_item = job.plan["images_per_item"]
    columns = per_item if 1 < per_item < job.total else min(16, len(images))
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(images, columns=columns, scale=scale).save(path, format="PNG")
