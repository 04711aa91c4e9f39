"""The smoke job: a job for a new release, submitted through the queue as a client would, before it is promoted."""

import base64
import hashlib
import io
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import Engine

from kfp_pipelines.events import Message, emit
from kfp_pipelines.stages import reports
from services.job_queue import clients
from services.job_queue.clients import Job
from services.job_queue.outputs import list_outputs
from services.job_requests.condition_images import map_images
from services.job_requests.image_rules import ImageRule
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError
from training.model import release as release_format
from training.model.release import Release

TIMEOUT_S = 1800.0  # GPU nodes may have to start first
POLL_S = 1.0
STEPS = 20


class SmokeError(DarkroomError):
    """The smoke job failed, or its images are wrong; the message says what happened."""


def run(
    engine: Engine,
    store: ObjectStore,
    release: str,
    folder: Path,
    count: int,
    images: Path,
    page: Path,
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Submit a job of `count` images under the conditions of held-out images, wait for it, and check its images.

    engine: a client's login, which cannot read the registry. folder: the release, as it was trained. page: the report.
    Raises SmokeError.
    """
    description = release_format.read(folder)
    request = make_request(description, images, count)
    with engine.begin() as connection:
        job_id = clients.submit_job(connection, {"model": release, "request": request})
    emit(Message(f"smoke: job {job_id} for {release}"))
    job = wait_for_end(engine, job_id, timeout_s)
    if not job.has_succeeded:
        raise SmokeError(f"smoke: job {job_id} of {release} {job.state}: {job.reason}")
    pixels = check_images(engine, job_id, store, description)
    sheet = page.with_name("smoke.png")
    page.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pixels, axis=1)).save(sheet)
    assert job.finished_at is not None
    seconds = (job.finished_at - job.created_at).total_seconds()
    reports.write(page, f"{release}: {count} images through the queue in {seconds:.1f} s", [], [sheet])


def report_no_job(page: Path) -> None:
    """Write the report of a stage that submits no job."""
    reports.write(page, "No smoke job was requested", [], [])


def make_request(description: Release, images: Path, count: int) -> dict[str, Any]:
    """Return the request for `count` images. A distilled release has steps of its own."""
    steps = {} if description.distilled is not None else {"steps": STEPS}
    return {"items": make_items(description, images, count), **steps, "seed": 0}


def make_items(description: Release, images: Path, count: int) -> list[dict[str, Any]]:
    """Return the items of a request for `count` images, conditioned as held-out images are; images are in base64."""
    from training.data import image_set
    from training.data.rows import crop_centres
    from training.evaluation.second_stage import build_requests

    held_out = image_set.read(images)
    size = min(held_out.image_size, description.image_shape[1])
    requests = build_requests(description, crop_centres(held_out, size), count).requests

    def encode(pixels: Any, field: str, rule: ImageRule) -> str:
        file = io.BytesIO()
        Image.fromarray(np.asarray(pixels).squeeze()).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    return [map_images(dict(request), description.conditions, encode) for request in requests]


def wait_for_end(engine: Engine, job_id: uuid.UUID, timeout_s: float) -> Job:
    """Return the job once it has ended. Cancels it and raises SmokeError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        with engine.connect() as connection:
            job = clients.find_job(connection, job_id)
        assert job is not None
        if job.has_ended:
            return job
        if time.monotonic() > deadline:
            with engine.begin() as connection:
                clients.cancel_jobs(connection, [job_id])
            raise SmokeError(
                f"smoke: job {job_id} was still {job.state} after {timeout_s:.0f} s and was cancelled; "
                "does a worker serve the queue `default`?"
            )
        time.sleep(POLL_S)


def check_images(engine: Engine, job_id: uuid.UUID, store: ObjectStore, description: Release) -> list[NDArray[Any]]:
    """Return the pixels of the job's images.

    Raises SmokeError for an image that differs from its recorded sha256, has another shape, or is blank.
    """
    with engine.connect() as connection:
        images = list_outputs(connection, job_id)
    found = []
    channels, *size = description.image_shape
    for image in images:
        assert image.key is not None
        body = store.get(image.key)
        if hashlib.sha256(body).hexdigest() != image.sha256:
            raise SmokeError(f"smoke: {store.uri(image.key)} is not the image that was recorded")
        pixels = np.asarray(Image.open(io.BytesIO(body)))
        expected = tuple(size) if channels == 1 else (*size, channels)
        if pixels.shape != expected:
            raise SmokeError(f"smoke: image {image.index} of job {job_id} has shape {pixels.shape}, not {expected}")
        if pixels.std() == 0:
            raise SmokeError(f"smoke: image {image.index} of job {job_id} is blank")
        found.append(pixels)
    return found
