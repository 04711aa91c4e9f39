"""The response bodies of the API that describe images."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from services.console.api.values import Whole


class OutputInList(BaseModel):
    """An image that was stored, or failed."""

    index: int
    item: int
    seed: int | None
    key: str | None
    sha256: str | None
    bytes: int | None
    profile: str | None
    error: str | None
    rating: int | None = None


class OutputList(BaseModel):
    """Images by index. next: the cursor of the images that follow; null if there are none yet."""

    outputs: list[OutputInList]
    next: str | None


class OutputInFull(OutputInList):
    """An image with its item, and a request that makes it again; null if its item was read from an object."""

    model: str = Field(description="its release, as name@version")
    fields: dict[str, Any] | None = Field(description="of its item")
    request: dict[str, Any] | None


class NewRating(BaseModel):
    """A rating of an image, from 1 to 5; 0 removes it."""

    model_config = ConfigDict(extra="forbid")

    rating: Whole = Field(ge=0, le=5)


class FoundImage(BaseModel):
    """An image that was found, and the fields of its item."""

    job_id: uuid.UUID
    index: int
    item: int
    fields: dict[str, Any]
    seed: int | None
    sha256: str | None
    model: str
    tags: list[str]
    created_at: datetime


class FoundList(BaseModel):
    """Images, newest first. next: the cursor of older ones, also if this page has none; null at the end."""

    images: list[FoundImage]
    next: str | None


class PairOfImages(BaseModel):
    """Two images of one index, item and seed, by their sha256; null for one that failed."""

    index: int
    item: int
    seed: int | None
    left: str | None
    right: str | None


class SettingThatDiffers(BaseModel):
    """A setting of two jobs; null where a job has none of this name."""

    name: str
    left: Any
    right: Any


class PairList(BaseModel):
    """Pairs by index. next: the cursor of those that follow; null at the end."""

    pairs: list[PairOfImages]
    next: str | None
    same_items: bool = Field(description="whether the requests of both jobs name the same items")
    settings: list[SettingThatDiffers]
