"""How an image was made: its item, its release and the request that makes it again."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from services.job_queue import clients, viewing
from services.job_queue.clients import JobSummary
from services.job_queue.gallery import CLASS
from services.job_queue.outputs import Output
from services.job_requests.again import request_again
from services.registry.viewing import find_by_id, find_class_names

MOST_WORDS = 8  # of a search
NOT_AGAIN = ("dry_run", "output_prefix")  # of a request


@dataclass(frozen=True)
class Classes:
    """The classes of a release. names: by number, none if they have no names."""

    names: Sequence[str] = ()

    def labels_of(self, given: str) -> list[str]:
        """Return how a request may give a class, of which a viewer gives the name or the number; none for no text."""
        if not given:
            return []
        others = [str(number) for number, name in enumerate(self.names) if name == given]
        others += [self.names[int(given)]] if given.isdecimal() and int(given) < len(self.names) else []
        return [given, *others]


def find_classes(connection: Connection, job_id: uuid.UUID) -> Classes:
    """Return the classes of the release of a job; none if it is not planned, or its release is not visible."""
    release_id = viewing.find_release_id(connection, job_id)
    return Classes(() if release_id is None else find_class_names(connection, release_id, CLASS))


@dataclass(frozen=True)
class Making:
    """How an image was made. model: its release as name@version, or as it was submitted if that is not visible."""

    item: dict[str, Any]
    model: str
    request: dict[str, Any]
    tags: Sequence[str]

    @property
    def label(self) -> str | None:
        """The class, as the item gives it."""
        label = self.item.get(CLASS)
        return None if label is None else str(label)

    @property
    def can_vary(self) -> bool:
        """Whether variations begin with noise near its own: not if that lies between the noise of two seeds already."""
        return "seed" not in self.request["items"][0].get("toward", {})


@dataclass(frozen=True)
class Origin:
    """The item of an image, the settings of its job, and how it was made; None for what is not known."""

    item: dict[str, Any] | None
    settings: dict[str, Any]
    making: Making | None


def find_origin(connection: Connection, image: Output, job: JobSummary) -> Origin:
    """Return what an image was made of. Its item is not known if it is in S3."""
    item = viewing.find_items(connection, job.id, [image.item]).get(image.item)
    settings = viewing.find_settings(connection, job.id)
    if image.seed is None or item is None or "images_per_item" not in settings:
        return Origin(item, settings, None)
    model = find_model(connection, job)
    request = request_again(settings, item, image.index, image.seed)
    return Origin(item, settings, Making(item, model, request, job.tags))


def find_model(connection: Connection, job: JobSummary) -> str:
    """Return the release of a job as name@version, or as it was submitted if it has none that is visible."""
    release_id = viewing.find_release_id(connection, job.id)
    release = None if release_id is None else find_by_id(connection, release_id)
    return job.model if release is None else f"{release.name}@{release.version}"


def find_making_of_all(connection: Connection, job_id: uuid.UUID) -> Making | None:
    """Return how all images of a job were made, or None if there is no job, or its items are in S3."""
    job, request = clients.find_summary(connection, job_id), viewing.find_request(connection, job_id)
    if job is None or request is None or "input_uri" in request:
        return None
    drawn = {name: value for name, value in viewing.find_settings(connection, job_id).items() if name == "seed"}
    kept = {name: value for name, value in request.items() if name not in NOT_AGAIN}
    return Making({}, find_model(connection, job), {**kept, **drawn}, job.tags)


def find_making(connection: Connection, job_id: uuid.UUID, index: int) -> Making | None:
    """Return how an image was made, or None if that is not known or there is no image."""
    image, job = viewing.find_image(connection, job_id, index), clients.find_summary(connection, job_id)
    return None if image is None or job is None else find_origin(connection, image, job).making
