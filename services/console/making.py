"""What made an image: its item, its release and the request that makes it again."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from services.job_queue import clients, viewing
from services.job_queue.gallery import CLASS
from services.job_requests.again import request_again
from services.registry.viewing import find_by_id, find_class_names

MOST_WORDS = 8  # of a search


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


def find_making(connection: Connection, job_id: uuid.UUID, index: int) -> Making | None:
    """Return how an image was made, or None if that is not known: there is no image, or its item is in S3."""
    image = viewing.find_image(connection, job_id, index)
    job = clients.find_summary(connection, job_id)
    if image is None or job is None or image.seed is None:
        return None
    item = viewing.find_items(connection, job_id, [image.item]).get(image.item)
    settings = viewing.find_settings(connection, job_id)
    if item is None or "images_per_item" not in settings:
        return None
    release_id = viewing.find_release_id(connection, job_id)
    release = None if release_id is None else find_by_id(connection, release_id)
    model = job.model if release is None else f"{release.name}@{release.version}"
    return Making(item, model, request_again(settings, item, index, image.seed), job.tags)
