"""The backend that uses the HTTP API, with a token of the tenant."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.client.errors import ClientError, JobNotFound
from services.client.ranges import Range
from services.client.transport import Transport
from services.job_queue.clients import JobSummary, Progress
from services.job_queue.job_filters import JobFilter
from services.job_queue.outputs import Output
from services.job_queue.pairs import Pair

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
        return [uuid.UUID(one) for one in self._api.call("POST", "/jobs/batch", {"jobs": given})["ids"]] if jobs else []

    def find_summary(self, job_id: uuid.UUID) -> JobSummary | None:
        """See `Backend`."""
        found = self._find(job_id)
        return None if found is None else SUMMARY.validate_python(found)

    def find_progress(self, job_id: uuid.UUID) -> Progress | None:
        """See `Backend`."""
        found = self._find(job_id)
        if found is None:
            return None
        return PROGRESS.validate_python({**found, "settled": found["succeeded"] + found["failed"]})

    def find_estimate(self, job_id: uuid.UUID) -> dict[str, Any] | None:
        """See `Backend`."""
        found = self._find(job_id)
        return None if found is None else found["estimate"]

    def _find(self, job_id: uuid.UUID) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._api.call("GET", f"/jobs/{job_id}")
        except JobNotFound:
            return None
        return found

    def list_jobs(self, limit: int, which: JobFilter) -> list[JobSummary]:
        """See `Backend`."""
        found: list[JobSummary] = []
        query = {"state": list(which.states), "tag": list(which.tags), "q": which.words, **_conditions(which)}
        while len(found) < limit:
            page = self._api.call("GET", "/jobs", query={**query, "limit": min(limit - len(found), TOGETHER)})
            found += [SUMMARY.validate_python(job) for job in page["jobs"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
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
        return int(self._api.call("POST", "/jobs/many", {**bulk, **_conditions(which)})["jobs"])

    def cancel(self, job_id: uuid.UUID) -> None:
        """See `Backend`."""
        self._api.call("POST", f"/jobs/{job_id}/cancel")

    def change(self, job_id: uuid.UUID, changes: Mapping[str, Any]) -> None:
        """See `Backend`."""
        self._api.call("PATCH", f"/jobs/{job_id}", dict(changes))

    def retry(self, job_id: uuid.UUID) -> int:
        """See `Backend`. A second call would be refused, as the first one may have arrived."""
        return int(self._api.call("POST", f"/jobs/{job_id}/retry", patience_s=0)["revision"])

    def read_ranges(self, job_id: uuid.UUID, ranges: Sequence[Range], limit: int) -> list[Output]:
        """See `Backend`."""
        found: list[Output] = []
        seen = -1
        for start, stop in ranges:
            seen = max(seen, start - 1)
            while seen < stop - 1 and len(found) < limit:
                query = {"cursor": seen, "limit": min(limit - len(found), TOGETHER)}
                page = self._api.call("GET", f"/jobs/{job_id}/outputs", query=query)
                images = [OUTPUT.validate_python(one) for one in page["outputs"]]
                found += [one for one in images if start <= one.index < stop]
                if page["next"] is None and (not images or images[-1].index < stop):
                    return found
                seen = images[-1].index
        return found

    def list_pairs(self, job_id: uuid.UUID, other: uuid.UUID, after: int, limit: int) -> list[Pair]:
        """See `Backend`."""
        query = {"other": str(other), "cursor": after, "limit": min(limit, TOGETHER)}
        page = self._api.call("GET", f"/jobs/{job_id}/pairs", query=query)
        return [Pair(**pair) for pair in page["pairs"]]

    def rate(self, job_id: uuid.UUID, index: int, rating: int) -> None:
        """See `Backend`."""
        self._api.call("PUT", f"/jobs/{job_id}/outputs/{index}/rating", {"rating": rating})

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
        manifest: dict[str, Any] = self._api.call("GET", f"/jobs/{job_id}/manifest")
        return manifest

    def close(self) -> None:
        """See `Backend`."""


def _conditions(which: JobFilter) -> dict[str, Any]:
    given = {name: getattr(which, name) for name in ("model", "queue", "since", "until")}
    return {
        name: value.astimezone().isoformat() if isinstance(value, datetime) else value
        for name, value in given.items()
        if value
    }
