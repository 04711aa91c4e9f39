"""The interface between the client and the service, implemented over SQL and S3 and over the HTTP API."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from services.client.ranges import Range
from services.job_queue.clients import JobSummary, Progress
from services.job_queue.job_filters import JobFilter
from services.job_queue.outputs import Output
from services.job_queue.pairs import Pair


class Files(Protocol):
    """The files of images."""

    def read_image(self, job_id: uuid.UUID, index: int, key: str) -> bytes:
        """Return the file of an image."""

    def uri_of(self, key: str) -> str:
        """Return where an object is stored, for messages."""

    def link(self, key: str, lifetime: timedelta) -> str:
        """Return an address from which anyone can download an object for a while."""


class Backend(Files, Protocol):
    """Each method waits while the service is away, and raises ClientError if it refuses or stays away."""

    def submit(self, jobs: Sequence[Mapping[str, Any]]) -> list[uuid.UUID]:
        """Submit jobs, all or none."""

    def find_summary(self, job_id: uuid.UUID) -> JobSummary | None:
        """Return a job's state and counts, or None if the tenant has no such job."""

    def find_progress(self, job_id: uuid.UUID) -> Progress | None:
        """Return how far a job is, or None."""

    def find_estimate(self, job_id: uuid.UUID) -> dict[str, Any] | None:
        """Return the estimate of a dry run."""

    def list_jobs(self, limit: int, which: JobFilter) -> list[JobSummary]:
        """Return up to `limit` jobs, newest first."""

    def count_open(self, which: JobFilter) -> int:
        """Return how many jobs a filter finds that have not ended."""

    def cancel_many(self, which: JobFilter) -> int:
        """Ask all of them to stop. Returns how many there were."""

    def retry_many(self, which: JobFilter) -> int:
        """Retry all jobs that a filter finds and that can be retried. Returns how many there were."""

    def cancel(self, job_id: uuid.UUID) -> None:
        """Ask a job to stop."""

    def change(self, job_id: uuid.UUID, changes: Mapping[str, Any]) -> None:
        """Ask that a job change."""

    def retry(self, job_id: uuid.UUID) -> int:
        """Begin the next revision of a job. It is not repeated."""

    def read_ranges(self, job_id: uuid.UUID, ranges: Sequence[Range], limit: int) -> list[Output]:
        """Return up to `limit` settled images whose index lies in one of the ranges."""

    def list_pairs(self, job_id: uuid.UUID, other: uuid.UUID, after: int, limit: int) -> list[Pair]:
        """Return up to `limit` pairs of images of two jobs, by index from the one after `after`."""

    def rate(self, job_id: uuid.UUID, index: int, rating: int) -> None:
        """Rate an image from 1 to 5, or with 0 remove its rating. Over HTTP alone."""

    def save_picks(self, job_id: uuid.UUID, rating: int, file: Path) -> None:
        """Write the images that are rated so or better to a ZIP. Over HTTP alone."""

    def read_manifest(self, job_id: uuid.UUID, key: str) -> dict[str, Any]:
        """Return the manifest of an ended job."""

    def close(self) -> None:
        """Close the connections. Calls of other threads raise ClientError, and so does every later one."""
