"""Finds the job that a command names, and waits for its end."""

import math
import sys
import time
import uuid
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from services.errors import CommandError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from services.job_queue.clients import Job, JobSummary, Progress

Found = TypeVar("Found")

POLL_INTERVAL_S = 0.25
REQUEST_EXAMPLE = '\'{"items": [{"class_label": 3}]}\''
TIME_EXAMPLE = "2030-01-31T18:00+01:00"
TOLD_AFTER_S = 1.0  # a reason to wait that passes sooner is none


def find_job(engine: "Engine", job_id: str) -> "Job":
    """Return a job. Raises CommandError if the id is malformed, or is not the id of a job of this tenant."""
    from services.job_queue import clients

    identifier = parse_job_id(job_id)
    with engine.connect() as connection:
        return _check_found(clients.find_job(connection, identifier), job_id)


def _check_found(job: Found | None, job_id: str) -> Found:
    if job is None:
        raise CommandError(f"job: you have no job {job_id}; list jobs with: darkroom jobs list")
    return job


def parse_job_id(job_id: str) -> uuid.UUID:
    """Return a job's id. Raises CommandError if it is malformed."""
    try:
        return uuid.UUID(job_id)
    except ValueError:
        raise CommandError(f"job: {job_id!r} is not a job id; list jobs with: darkroom jobs list") from None


def parse_request(text: str) -> dict[str, Any]:
    """Return a request that is given as JSON, or in standard input if the text is "-". Raises CommandError."""
    from services.job_requests.strict_json import RequestError, parse_json

    try:
        parsed = parse_json(sys.stdin.buffer.read() if text == "-" else text)
    except RequestError as error:
        raise CommandError(f"--request: {error}; an example: {REQUEST_EXAMPLE}") from None
    if not isinstance(parsed, dict):
        raise CommandError(f"--request: not a JSON object; an example: {REQUEST_EXAMPLE}")
    return parsed


def parse_time(option: str, value: str | None) -> datetime | None:
    """Return a time; one without a time zone is local. Raises CommandError if it is none."""
    try:
        return None if value is None else datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError):
        raise CommandError(f"{option}: {value!r} is not a time; permitted: such as {TIME_EXAMPLE}") from None


def isoformat(time: datetime | None) -> str | None:
    """Return a time as JSON has it."""
    return None if time is None else time.isoformat()


def job_to_json(job: "JobSummary") -> dict[str, Any]:
    """Return a job as a JSON document, without its plan."""
    return {
        key: value if value is None or isinstance(value, int | dict | list) else str(value)
        for key, value in asdict(job).items()
        if key != "plan"
    }


def wait_for_job(engine: "Engine", job_id: str, *, show_progress: bool = True) -> "Job":
    """Wait until a job has ended, and return it.

    Standard error shows a progress bar with the expected end, and a line for each reason why the job waits.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from services.job_queue import clients

    identifier = parse_job_id(job_id)
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), note)
    reason, since = None, time.monotonic()
    with Progress(*columns, console=Console(stderr=True), disable=not show_progress) as progress:
        bar = progress.add_task("submitted", total=None, note="")
        while True:
            with engine.connect() as connection:
                job = _check_found(clients.find_progress(connection, identifier), job_id)
            progress.update(
                bar, description=job.state, total=job.total or None, completed=job.settled, note=_expected_end(job),
                visible=bool(job.total) or not job.has_ended,
            )  # fmt: skip
            if job.has_ended:
                return find_job(engine, job_id)
            if job.waits_because != reason:
                reason, since = job.waits_because, time.monotonic()
            elif reason is not None and time.monotonic() - since > TOLD_AFTER_S:
                progress.console.print(f"The job waits: {reason}.", highlight=False, soft_wrap=True)
                since = math.inf  # once
            time.sleep(POLL_INTERVAL_S)


def _expected_end(job: "Progress") -> str:
    """Return the rate and the expected end, in local time, if they are known."""
    if job.images_per_s is None or job.expected_end is None:
        return ""
    return f"{job.images_per_s:.3g} images/s, ends about {job.expected_end.astimezone():%H:%M:%S}"
