"""Contact sheets of a job's images."""

import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from services.errors import CommandError
from training.previews.font import load

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from services.job_queue.clients import Job
    from services.settings import Settings

GAP = 2  # pixels between images
FONT_SIZE = 11
MOST_LABEL = 240  # pixels left of a sheet
MOST_LINES = 4  # above a column
MOST_LETTERS = 60  # of a value in a label, which may be a file


def contact_sheet(images: Sequence[tuple[int, bytes]], *, columns: int, scale: int = 1) -> Image.Image:
    """Return a sheet of images, each given as its index and its file. Image i is in row i // columns.

    With the job's images_per_item columns, each item has one row. Missing images leave a gap.
    """
    decoded = {index: Image.open(io.BytesIO(body)).convert("RGB") for index, body in images}
    cell_width, cell_height = (
        max(sides) * scale for sides in zip(*(one.size for one in decoded.values()), strict=True)
    )
    rows = max(decoded) // columns + 1
    sheet = Image.new("RGB", (columns * (cell_width + GAP) + GAP, rows * (cell_height + GAP) + GAP), "white")
    for index, image in decoded.items():
        row, column = divmod(index, columns)
        cell = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        sheet.paste(cell, (GAP + column * (cell_width + GAP), GAP + row * (cell_height + GAP)))
    return sheet


def write_job_sheet(
    settings: "Settings", engine: "Engine", job: "Job", path: Path, *, scale: int = 2, names: Sequence[str] = ()
) -> None:
    """Write the contact sheet of a job as a PNG. Raises CommandError if the job has no images.

    names: of the items, beside their rows.
    """
    images = _read_images(settings, engine, job)
    assert job.plan is not None  # a job with images has been planned
    per_item = job.plan["images_per_item"]
    columns = per_item if 1 < per_item < job.total else min(16, len(images))
    axes = job.plan.get("axes")
    if axes:
        columns = len(axes[-1][1]) * per_item
    sheet = contact_sheet(images, columns=columns, scale=scale)
    if axes:
        sheet = label(sheet, *axis_labels(axes, rows=-(-job.total // columns), per_item=per_item))
    elif columns == per_item and len(names) > 1:
        sheet = label(sheet, names, [""] * columns)
    _save(sheet, path)


def write_sheet_of_jobs(
    settings: "Settings", engine: "Engine", jobs: Sequence["Job"], path: Path, *, scale: int = 2
) -> None:
    """Write a contact sheet of the same images of several jobs: a row for each item, and columns for each job.

    Raises CommandError if a job has no images, or has not as many items and images of each as the first one.
    """
    images: list[tuple[int, bytes]] = []
    shapes = []
    for number, job in enumerate(jobs):
        read = _read_images(settings, engine, job)
        assert job.plan is not None
        per_item = int(job.plan["images_per_item"])
        shapes.append((job.total // per_item, per_item))
        if shapes[-1] != shapes[0]:
            found, wanted = (f"{items} items of {each} images" for items, each in (shapes[-1], shapes[0]))
            raise CommandError(f"job: {job.id} has {found}; permitted: {wanted}, as in {jobs[0].id}")
        for index, body in read:
            item, k = divmod(index, per_item)
            images.append(((item * len(jobs) + number) * per_item + k, body))
    rows, per_item = shapes[0]
    assert jobs[0].plan is not None
    axes = [*jobs[0].plan.get("axes", ()), ["release", [job.model for job in jobs]]]
    sheet = contact_sheet(images, columns=len(jobs) * per_item, scale=scale)
    _save(label(sheet, *axis_labels(axes, rows=rows, per_item=per_item)), path)


def _read_images(settings: "Settings", engine: "Engine", job: "Job") -> list[tuple[int, bytes]]:
    """Return the index and the file of each image of a job. Raises CommandError if it has none."""
    from services.job_queue.outputs import list_outputs
    from services.storage.object_store import ObjectStore

    store = ObjectStore.connect(settings)
    with engine.connect() as connection:
        outputs = list_outputs(connection, job.id)
    images = [(output.index, store.get(output.key)) for output in outputs if output.key]
    if not images:
        raise CommandError(f"job {job.id} has no images ({job.state}{': ' + job.reason if job.reason else ''})")
    return images


def _save(sheet: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")


def axis_labels(axes: Sequence[Sequence[Any]], *, rows: int, per_item: int) -> tuple[list[str], list[str]]:
    """Return the labels of a grid's rows and columns: columns are of the last axis, and rows of the others."""
    *others, (name, values) = axes
    columns = [f"{name} {value}"[:MOST_LETTERS] if k == 0 else "" for value in values for k in range(per_item)]
    cells = [", ".join(f"{other} {value}"[:MOST_LETTERS] for (other, _), value in zip(others, cell, strict=True))
             for cell in product(*(found for _, found in others))]  # fmt: skip
    if rows == len(cells):
        return cells, columns
    return [f"item {row // len(cells)} {cells[row % len(cells)]}".strip() for row in range(rows)], columns


def label(sheet: Image.Image, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Return a sheet with a label left of each row and above each column.

    Those above columns have up to MOST_LINES lines. Labels that are too long are cut.
    """
    font = load(FONT_SIZE)
    left = min(MOST_LABEL, 2 * GAP + max(int(font.getlength(one)) + 1 for one in rows))
    width, height = (sheet.width - GAP) // len(columns), (sheet.height - GAP) // len(rows)
    starts = [number for number, text in enumerate(columns) if text]
    above = {
        number: wrap(columns[number], (end - number) * width, font)
        for number, end in zip(starts, [*starts, len(columns)][1:], strict=True)
    }
    top = GAP + (FONT_SIZE + GAP) * max(map(len, above.values()), default=1)
    labelled = Image.new("RGB", (left + sheet.width, top + sheet.height), "white")
    labelled.paste(sheet, (left, top))
    pen = ImageDraw.Draw(labelled)
    for number, lines in above.items():
        for line, text in enumerate(lines):
            pen.text((left + GAP + number * width, GAP + line * (FONT_SIZE + GAP)), text, "black", font)
    for number, text in enumerate(rows):
        pen.text((GAP, top + GAP + number * height), fit(text, left - GAP, font), "black", font)
    return labelled


def wrap(text: str, width: int, font: Any) -> list[str]:
    """Return the beginning of a text in up to MOST_LINES lines, broken at spaces, of at most so many pixels."""
    lines: list[str] = []
    while text and len(lines) < MOST_LINES and (line := fit(text, width, font)):
        if len(line) < len(text) and " " in line.rstrip():
            line = line.rsplit(" ", 1)[0]
        lines.append(line)
        text = text[len(line) :].lstrip()
    return lines


def fit(text: str, width: int, font: Any) -> str:
    """Return the beginning of a text that is at most so many pixels wide."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
