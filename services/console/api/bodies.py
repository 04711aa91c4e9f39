"""The request and response bodies of the API. The columns are those of docs/sql.md."""

import uuid
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from services.console.api.values import Flag, Moment, Whole
from services.console.bulk import Action
from services.job_queue.clients import JobSummary, Progress
from services.job_queue.states import JobState
from services.job_queue.viewing import JobLine

MOST_TOGETHER = 1_000


class NewJob(BaseModel):
    """A job to submit. The database checks the values, as it does for an INSERT."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="name, name@alias or name@version of a release", examples=["digits@production"])
    request: dict[str, Any] = Field(description="what to sample, as docs/requests.md describes it")
    queue: str | None = None
    priority: Whole | None = None
    idempotency_key: str | None = Field(None, description="or the header Idempotency-Key: one job for each key")
    run_after: Moment | None = None
    deadline: Moment | None = None
    tags: list[str] | None = Field(None, description="words to find the job by")

    def columns(self) -> dict[str, Any]:
        """Return the fields of `submit_job`."""
        return self.model_dump(mode="json", exclude_none=True)


class JobId(BaseModel):
    """A job that was submitted."""

    id: uuid.UUID


class NewJobs(BaseModel):
    """Jobs to submit."""

    model_config = ConfigDict(extra="forbid")

    jobs: list[NewJob] = Field(min_length=1, max_length=MOST_TOGETHER)


class SubmittedIds(BaseModel):
    """Jobs that were submitted, in the order of the request."""

    ids: list[uuid.UUID]


class JobFields(BaseModel):
    """A job, in a list or alone."""

    id: uuid.UUID
    model: str
    queue: str
    priority: int
    paused: bool
    tags: list[str]
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


class JobInList(JobFields):
    """A job in a list."""

    @classmethod
    def of(cls, line: JobLine) -> Self:
        """Make it of a row."""
        return cls(**{name: value for name, value in vars(line).items() if name in cls.model_fields})


class JobList(BaseModel):
    """Jobs, newest first. next: the cursor of the jobs that follow; null at the end."""

    jobs: list[JobInList]
    next: str | None


class JobInFull(JobFields):
    """A job with its progress, and what its plan says about all of its images."""

    settings: dict[str, Any]
    estimate: dict[str, Any] | None = Field(description="of a dry run that was valid; see docs/sql.md")

    @classmethod
    def of(cls, job: JobSummary, progress: Progress, settings: dict[str, Any], estimate: dict[str, Any] | None) -> Self:
        """Make it of what the database knows."""
        known = {**vars(progress), **vars(job), "settings": settings, "estimate": estimate}
        return cls(**{name: known[name] for name in cls.model_fields})


class JobIds(BaseModel):
    """Jobs of which something is asked."""

    model_config = ConfigDict(extra="forbid")

    ids: list[uuid.UUID] = Field(min_length=1, max_length=MOST_TOGETHER)


class Cancelled(BaseModel):
    """Jobs that will stop: those of the request that had not ended."""

    cancel_requested: list[uuid.UUID]


class Changes(BaseModel):
    """What changes of a job; what is left out stays. Of an ended job the tags alone change."""

    model_config = ConfigDict(extra="forbid")

    priority: Whole | None = None
    paused: Flag | None = None
    tags: list[str] | None = None
    deadline: Moment | None = Field(None, description="null takes it away")

    def given(self) -> dict[str, Any]:
        """Return the fields that `change_job` gets, which refuses null for the others."""
        return self.model_dump(mode="json", exclude_unset=True)


class Changed(BaseModel):
    """Jobs that a dispatcher will change within a second: those of the request that had not ended."""

    change_requested: list[uuid.UUID]


class Bulk(BaseModel):
    """What is done to all jobs that meet every condition and to which it can be done, at most 20,000 in one request."""

    model_config = ConfigDict(extra="forbid")

    action: Action
    priority: Whole | None = Field(None, description="with the action `priority`")
    states: list[JobState] = []
    tags: list[str] = Field([], description="a job must have all of them", max_length=16)
    model: str | None = Field(None, description="as it was submitted, or its name alone")
    queue: str | None = None
    q: str = Field("", description="a part of the model, the idempotency key or the id", max_length=200)
    since: Moment | None = None
    until: Moment | None = None
    count_only: Flag = Field(False, description="whether nothing is done, and the jobs are only counted")


class BulkDone(BaseModel):
    """To how many jobs it was done, or would be done."""

    jobs: int


class Revisions(BaseModel):
    """The revision of each job of the request."""

    revisions: dict[uuid.UUID, int]


class Revision(BaseModel):
    """The revision that makes a job's missing images."""

    revision: int


class ReasonInList(BaseModel):
    """Why images failed. example: one of the messages. first: (index, item) of the first images."""

    example: str
    images: int
    items: int
    first: list[tuple[int, int]]


class Reasons(BaseModel):
    """Why images of a job failed, the most frequent reason first."""

    reasons: list[ReasonInList]


class Question(BaseModel):
    """A request to check."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=200)
    request: dict[str, Any]


class StageInAnswer(BaseModel):
    """What a stage of a job would take. model: its release as name@version."""

    model: str
    evaluations: int


class Answer(BaseModel):
    """What a job with a request would be.

    evaluations: of all stages. seconds: at the pace of the tenant's last jobs of the release, if that is known.
    """

    release: str
    items: int
    images: int
    evaluations: int
    stages: list[StageInAnswer]
    seconds: float | None


class QueueInList(BaseModel):
    """A queue that the tenant may use. paused: its work waits until an operator resumes it."""

    name: str
    paused: bool


class QueueList(BaseModel):
    """Queues by name."""

    queues: list[QueueInList]


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
    """A release with its release.json, which has the JSON Schema of its conditions.

    figures: of its latest evaluation.
    """

    manifest: dict[str, Any]
    figures: dict[str, float]
