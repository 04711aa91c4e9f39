"""What the API accepts and answers. The columns are those of docs/sql.md."""

import uuid
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from services.job_queue.clients import JobSummary, Progress
from services.job_queue.states import JobState
from services.job_queue.viewing import JobLine

MOST_TOGETHER = 1_000


class NewJob(BaseModel):
    """A job to submit. The database checks the values, as it does for an INSERT."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="name, name@alias or name@version of a release", examples=["digits@production"])
    request: dict[str, Any] = Field(description="what to sample, as docs/sql.md describes it")
    queue: str | None = None
    priority: int | None = None
    idempotency_key: str | None = Field(None, description="or the header Idempotency-Key: one job for each key")
    run_after: datetime | None = None
    deadline: datetime | None = None

    def columns(self) -> dict[str, Any]:
        """Return the fields of `submit_job`."""
        return self.model_dump(mode="json", exclude_none=True)


class JobId(BaseModel):
    """A job that was submitted."""

    id: uuid.UUID


class JobInList(BaseModel):
    """A job in a list."""

    id: uuid.UUID
    model: str
    queue: str
    priority: int
    state: JobState
    reason: str | None
    total: int
    succeeded: int
    failed: int
    created_at: datetime
    finished_at: datetime | None
    images_per_s: float | None
    expected_end: datetime | None
    waits_because: str | None

    @classmethod
    def of(cls, line: JobLine) -> Self:
        """Make it of a row."""
        return cls(**{name: value for name, value in vars(line).items() if name in cls.model_fields})


class JobList(BaseModel):
    """Jobs, newest first. next: the cursor of the jobs that follow; null at the end."""

    jobs: list[JobInList]
    next: str | None


class JobInFull(BaseModel):
    """A job with its progress, and what its plan says about all of its images."""

    id: uuid.UUID
    model: str
    queue: str
    priority: int
    state: JobState
    revision: int
    reason: str | None
    total: int
    succeeded: int
    failed: int
    manifest_key: str | None
    run_after: datetime | None
    deadline: datetime | None
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    images_per_s: float | None
    expected_end: datetime | None
    waits_because: str | None
    settings: dict[str, Any]

    @classmethod
    def of(cls, job: JobSummary, progress: Progress, settings: dict[str, Any]) -> Self:
        """Make it of what the database knows."""
        known = {**vars(progress), **vars(job), "settings": settings}
        return cls(**{name: known[name] for name in cls.model_fields})


class JobIds(BaseModel):
    """Jobs to cancel."""

    model_config = ConfigDict(extra="forbid")

    ids: list[uuid.UUID] = Field(min_length=1, max_length=MOST_TOGETHER)


class Cancelled(BaseModel):
    """Jobs that will stop: those of the request that had not ended."""

    cancel_requested: list[uuid.UUID]


class Revision(BaseModel):
    """The revision that makes a job's missing images."""

    revision: int


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


class OutputList(BaseModel):
    """Images by index. next: the cursor of the images that follow; null if there are none yet."""

    outputs: list[OutputInList]
    next: str | None


class ReleaseInList(BaseModel):
    """A published release."""

    name: str
    version: int
    kind: str
    digest: str
    aliases: list[str]
    created_at: datetime
    retired_at: datetime | None


class ReleaseList(BaseModel):
    """Releases, by name and newest first. next: the cursor of those that follow; null at the end."""

    releases: list[ReleaseInList]
    next: str | None


class ReleaseInFull(ReleaseInList):
    """A release with its release.json, which has the JSON Schema of its conditions."""

    manifest: dict[str, Any]
