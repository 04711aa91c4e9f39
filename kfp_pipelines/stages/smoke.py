"""A job for a new release through the queue, as its clients will submit it, before anything is promoted."""

import base64
import hashlib
import io
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import Engine

from kfp_pipelines.stages import reports
from services.database import connections
from services.job_queue import clients
from services.job_queue.clients import Job
from services.job_queue.outputs import list_outputs
from services.job_requests.condition_images import map_images
from services.settings import load
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError
from training.model import release as release_format
from training.model.release import Release

PATIENCE_S = 1800.0  # GPU nodes may have to be started first
STEPS = 20


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
            job_id = clients.submit_job(connection, {"model": release, "request": body})
        print(f"smoke: job {job_id} for {release}", flush=True)
        job = ended(engine, job_id, patience_s)
        if not job.has_succeeded:
            raise SmokeError(f"smoke: job {job_id} of {release} {job.state}: {job.reason}")
        pictures = checked(engine, job_id, ObjectStore.connect(settings), description)
    finally:
        engine.dispose()
    sheet = page.with_name("smoke.png")
    page.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures, axis=1)).save(sheet)
    assert job.finished_at is not None
    seconds = (job.finished_at - job.created_at).total_seconds()
    reports.write(page, f"{release}: {count} images through the queue in {seconds:.1f} s", [], [sheet])


def items(description: Release, images: Path, count: int) -> list[dict[str, Any]]:
    """Items of a request, as JSON: images in base64."""
    from training.data import image_set
    from training.data.rows import crop_centres
    from training.evaluation.second_stage import build_requests

    held = image_set.read(images)
    asked = build_requests(description, crop_centres(held, min(held.image_size, description.image_shape[1])), count)

    def encoded(pixels: Any, field: str) -> str:
        file = io.BytesIO()
        Image.fromarray(np.asarray(pixels).squeeze()).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    return [map_images(dict(request), description.conditions, encoded) for request in asked.requests]


def ended(engine: Engine, job_id: uuid.UUID, patience_s: float) -> Job:
    """The job once it has ended. Raises SmokeError where that takes longer."""
    deadline = time.monotonic() + patience_s
    while True:
        with engine.connect() as connection:
            job = clients.find_job(connection, job_id)
        assert job is not None
        if job.has_ended:
            return job
        if time.monotonic() > deadline:
            with engine.begin() as connection:
                clients.cancel_job(connection, job_id)
            raise SmokeError(
                f"smoke: job {job_id} is {job.state} after {patience_s:.0f} s and was cancelled; "
                "does a worker serve the queue `default`?"
            )
        time.sleep(1.0)


def checked(engine: Engine, job_id: uuid.UUID, store: ObjectStore, description: Release) -> list[Any]:
    """The job's images. Raises SmokeError for one that is not what its row says, of another shape, or blank."""
    with engine.connect() as connection:
        images = list_outputs(connection, job_id)
    pictures = []
    channels, *size = description.image_shape
    for image in images:
        assert image.key is not None
        body = store.get(image.key)
        if hashlib.sha256(body).hexdigest() != image.sha256:
            raise SmokeError(f"smoke: {store.uri(image.key)} is not the image that was recorded")
        pixels = np.asarray(Image.open(io.BytesIO(body)))
        wanted = tuple(size) if channels == 1 else (*size, channels)
        if pixels.shape != wanted or pixels.std() == 0:
            raise SmokeError(f"smoke: image {image.index} of job {job_id} is blank, or {pixels.shape}, not {wanted}")
        pictures.append(pixels)
    return pictures
