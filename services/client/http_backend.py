"""The backend that uses the HTTP API, with a token of the tenant."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from services.client.errors import ClientError, JobNotFound
from services.client.ranges import Range
from services.client.transport import Transport
from services.job_queue.clients import JobSummary, Progress
from services.job_queue.job_filters import JobFilter
from services.job_queue.outputs import Output
from services.job_queue.pairs import Pair

Answer = TypeVar("Answer")

TOGETHER = 1_000  # jobs or images of one request
SUMMARY, PROGRESS, OUTPUT = TypeAdapter(JobSummary), TypeAdapter(Progress), TypeAdapter(Output)


class HttpBackend:
    """See `Backend`."""

    def __init__(self, url: str, token: str, patience_s: float) -> None:
        self._api = Transport(url, token, patience_s)

    def submit(self, jobs: Sequence[Mapping[str, Any]]) -> list[uuid.UUID]:
        """See `Backend`. At most TOGETHER jobs."""
        if len(jobs) > TOGETHER:
            raise ClientError(f"jobs: {len(jobs)} are not allowed; permitted: at most {TOGETHER} at once over HTTP")
        given = [{name: value for name, value in job.items() if value is not None} for job in jobs]
        if not jobs:
            return []
        return self._api.call(
            "POST", "/jobs/batch", {"jobs": given}, read=lambda answer: [*map(uuid.UUID, answer["ids"])]
        )

    def find_summary(self, job_id: uuid.UUID) -> JobSummary | None:
        """See `Backend`."""
        return self._find(job_id, SUMMARY.validate_python)

    def find_progress(self, job_id: uuid.UUID) -> Progress | None:
        """See `Backend`."""

        def read(job: dict[str, Any]) -> Progress:
            return PROGRESS.validate_python({**job, "settled": job["succeeded"] + job["failed"]})

        return self._find(job_id, read)

    def find_estimate(self, job_id: uuid.UUID) -> dict[str, Any] | None:
        """See `Backend`."""
        return self._find(job_id, lambda job: job["estimate"])

    def _find(self, job_id: uuid.UUID, read: Callable[[Any], Answer]) -> Answer | None:
        try:
            return self._api.call("GET", f"/jobs/{job_id}", read=read)
        except JobNotFound:
            return None

    def list_jobs(self, limit: int, which: JobFilter) -> list[JobSummary]:
        """See `Backend`."""
        found: list[JobSummary] = []
        query = {"state": list(which.states), "tag": list(which.tags), "q": which.words, **_conditions(which)}
        while len(found) < limit:
            asked = {**query, "limit": min(limit - len(found), TOGETHER)}
            jobs, query["cursor"] = self._api.call("GET", "/jobs", query=asked, read=_read_jobs)
            found += jobs
            if query["cursor"] is None or not jobs:
                break
        return found

    def count_open(self, which: JobFilter) -> int:
        """See `Backend`."""
        return self._act("cancel", which, count_only=True)

    def cancel_many(self, which: JobFilter) -> int:
        """See `Backend`. Of at most 20,000 jobs at a time."""
        return self._act("cancel", which)

    def retry_many(self, which: JobFilter) -> int:
        """See `Backend`. Of at most 20,000 jobs at a time."""
        return self._act("retry", which)

    def _act(self, action: str, which: JobFilter, **more: Any) -> int:
        bulk = {"action": action, "states": list(which.states), "tags": list(which.tags), "q": which.words, **more}
        asked = {**bulk, **_conditions(which)}
        return self._api.call("POST", "/jobs/many", asked, read=lambda answer: int(answer["jobs"]))

    def cancel(self, job_id: uuid.UUID) -> None:
        """See `Backend`."""
        self._api.call("POST", f"/jobs/{job_id}/cancel", read=_ignore)

    def change(self, job_id: uuid.UUID, changes: Mapping[str, Any]) -> None:
        """See `Backend`."""
        self._api.call("PATCH", f"/jobs/{job_id}", dict(changes), read=_ignore)

    def retry(self, job_id: uuid.UUID) -> int:
        """See `Backend`. A second call would be refused, as the first one may have arrived."""
        path = f"/jobs/{job_id}/retry"
        return self._api.call("POST", path, patience_s=0, read=lambda answer: int(answer["revision"]))

    def read_ranges(self, job_id: uuid.UUID, ranges: Sequence[Range], limit: int) -> list[Output]:
        """See `Backend`."""
        found: list[Output] = []
        seen = -1
        for start, stop in ranges:
            seen = max(seen, start - 1)
            while seen < stop - 1 and len(found) < limit:
                query = {"cursor": seen, "limit": min(limit - len(found), TOGETHER)}
                images, following = self._api.call("GET", f"/jobs/{job_id}/outputs", query=query, read=_read_outputs)
                if not images or images[-1].index <= seen:
                    return found
                found += [one for one in images if start <= one.index < stop]
                if following is None and images[-1].index < stop:
                    return found
                seen = images[-1].index
        return found

    def list_pairs(self, job_id: uuid.UUID, other: uuid.UUID, after: int, limit: int) -> list[Pair]:
        """See `Backend`."""
        query = {"other": str(other), "cursor": after, "limit": min(limit, TOGETHER)}
        path = f"/jobs/{job_id}/pairs"
        return self._api.call("GET", path, query=query, read=lambda page: [Pair(**pair) for pair in page["pairs"]])

    def rate(self, job_id: uuid.UUID, index: int, rating: int) -> None:
        """See `Backend`."""
        self._api.call("PUT", f"/jobs/{job_id}/outputs/{index}/rating", {"rating": rating}, read=_ignore)

    def save_picks(self, job_id: uuid.UUID, rating: int, file: Path) -> None:
        """See `Backend`."""
        self._api.download(f"/jobs/{job_id}/picks.zip?rating={rating}", file)

    def read_image(self, job_id: uuid.UUID, index: int, key: str) -> bytes:
        """See `Backend`."""
        return self._api.read(f"/jobs/{job_id}/outputs/{index}/file")

    def uri_of(self, key: str) -> str:
        """See `Backend`."""
        return key

    def link(self, key: str, lifetime: timedelta) -> str:
        """Refuse: links are signed with credentials of the bucket."""
        raise ClientError("link: needs access to the bucket; connect with Darkroom() instead of a token")

    def read_manifest(self, job_id: uuid.UUID, key: str) -> dict[str, Any]:
        """See `Backend`."""
        return self._api.call("GET", f"/jobs/{job_id}/manifest", read=lambda manifest: dict(manifest))

    def close(self) -> None:
        """See `Backend`."""
        self._api.close()


def _read_jobs(page: dict[str, Any]) -> tuple[list[JobSummary], str | None]:
    return [SUMMARY.validate_python(job) for job in page["jobs"]], page["next"]


def _read_outputs(page: dict[str, Any]) -> tuple[list[Output], int | None]:
    return [OUTPUT.validate_python(one) for one in page["outputs"]], page["next"]


def _ignore(_: object) -> None:
    pass


def _conditions(which: JobFilter) -> dict[str, Any]:
    given = {name: getattr(which, name) for name in ("model", "queue", "since", "until")}
    return {
        name: value.astimezone().isoformat() if isinstance(value, datetime) else value
        for name, value in given.items()
        if value
    }
