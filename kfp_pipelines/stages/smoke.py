"""A job for a new release through the queue, as its clients will submit it, before anything is promoted."""

import base64
import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import Engine, text

from kfp_pipelines.stages import reports
from services.database import connections
from services.job_requests.condition_images import map_images
from services.settings import load
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError
from training.model import release as release_format
from training.model.release import Release

PATIENCE_S = 1800.0  # GPU nodes may have to be started first
STEPS = 20
ENDED = ("succeeded", "partial", "failed", "cancelled", "rejected")


class SmokeError(DarkroomError):
    """The job did not give its images; the message says what became of it."""


def run(release: str, folder: Path, count: int, images: Path, page: Path, *, patience_s: float = PATIENCE_S) -> None:
    """Ask for `count` images under conditions of held-out ones, wait, and look at what came.

    folder: of the release. As a client's login, which reads no releases. Raises SmokeError.
    """
    if count == 0:
        reports.write(page, "No smoke job was asked for", [], [])
        return
    settings = load("submitter")
    engine = connections.connect(settings.database_url.get_secret_value())
    description = release_format.read(folder)
    try:
        body = {"items": items(description, images, count), "steps": STEPS, "seed": 0}
        with engine.begin() as connection:
            job = {"model": release, "request": body}
            job_id = connection.scalar(text("SELECT submit_job(CAST(:job AS jsonb))"), {"job": json.dumps(job)})
        print(f"smoke: job {job_id} for {release}", flush=True)
        row = ended(engine, job_id, patience_s)
        if row.state != "succeeded":
            raise SmokeError(f"smoke: job {job_id} of {release} {row.state}: {row.reason or told(engine, job_id)}")
        pictures = checked(engine, job_id, ObjectStore.connect(settings), description)
    finally:
        engine.dispose()
    sheet = page.with_name("smoke.png")
    page.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures, axis=1)).save(sheet)
    seconds = (row.finished_at - row.created_at).total_seconds()
    reports.write(page, f"{release}: {count} images through the queue in {seconds:.1f} s", [], [sheet])


def items(description: Release, images: Path, count: int) -> list[dict[str, Any]]:
    """Items of a request, as JSON: images in base64."""
    from training.data import image_set
    from training.data.rows import centred
    from training.evaluation.second_stage import questions

    held = image_set.read(images)
    asked = questions(description, centred(held, min(held.image_size, description.image_shape[1])), count)

    def encoded(pixels: Any, field: str) -> str:
        file = io.BytesIO()
        Image.fromarray(np.asarray(pixels).squeeze()).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    return [map_images(dict(request), description.conditions, encoded) for request in asked.requests]


def ended(engine: Engine, job_id: Any, patience_s: float) -> Any:
    """The job's row once it has ended. Raises SmokeError where that takes longer."""
    deadline = time.monotonic() + patience_s
    while True:
        with engine.connect() as connection:
            row = connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()
        if row.state in ENDED:
            return row
        if time.monotonic() > deadline:
            with engine.begin() as connection:
                connection.execute(text("SELECT cancel_job(:id)"), {"id": job_id})
            raise SmokeError(
                f"smoke: job {job_id} is {row.state} after {patience_s:.0f} s and was cancelled; "
                "does a worker serve the queue `default`?"
            )
        time.sleep(1.0)


def told(engine: Engine, job_id: Any) -> str:
    """What the first image that failed says."""
    query = "SELECT error FROM outputs WHERE job_id = :id AND error IS NOT NULL ORDER BY index LIMIT 1"
    with engine.connect() as connection:
        return str(connection.scalar(text(query), {"id": job_id}))


def checked(engine: Engine, job_id: Any, store: ObjectStore, description: Release) -> list[Any]:
    """The job's images. Raises SmokeError for one that is not what its row says, of another shape, or blank."""
    query = "SELECT index, key, sha256 FROM outputs WHERE job_id = :id ORDER BY index"
    with engine.connect() as connection:
        rows = connection.execute(text(query), {"id": job_id}).all()
    pictures = []
    channels, *size = description.image_shape
    for row in rows:
        body = store.get(row.key)
        if hashlib.sha256(body).hexdigest() != row.sha256:
            raise SmokeError(f"smoke: {store.uri(row.key)} is not the image that was recorded")
        pixels = np.asarray(Image.open(io.BytesIO(body)))
        wanted = tuple(size) if channels == 1 else (*size, channels)
        if pixels.shape != wanted or pixels.std() == 0:
            raise SmokeError(f"smoke: image {row.index} of job {job_id} is blank, or {pixels.shape}, not {wanted}")
        pictures.append(pixels)
    return pictures
