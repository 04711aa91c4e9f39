"""The entry to the client."""

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from services import settings
from services.client.backend import Backend
from services.client.errors import ClientError
from services.client.http_backend import HttpBackend
from services.client.job import Job
from services.client.sql_backend import SqlBackend
from services.job_queue import clients
from services.job_queue.job_filters import EVERY_JOB, JobFilter
from services.job_requests.siblings import sibling_jobs


class Darkroom:
    """A tenant's connection to the service. One may be shared by threads; close it, or use it in a `with` block."""

    def __init__(
        self,
        *,
        url: str | None = None,
        token: str | None = None,
        database_url: str | None = None,
        s3_bucket: str | None = None,
        s3_endpoint_url: str | None = None,
        s3_region: str | None = None,
        s3_access_key_id: str | None = None,
        s3_secret_access_key: str | None = None,
        patience_s: float = 300.0,
    ) -> None:
        """Prepare connections: by the HTTP API of a console with `url` and `token`, else by SQL and S3.

        url: of the console, such as https://pictures.example.com. token: of the tenant, see docs/api.md. Each of the
        other values that is left out comes from its DARKROOM_* variable, else the local stack. database_url: with the
        tenant's login. patience_s: how long a call is repeated while the service is away. Raises SettingsError for a
        value that is missing or malformed, and ClientError for a url or a token that is.
        """
        given = {
            "DATABASE_URL": database_url,
            "S3_BUCKET": s3_bucket,
            "S3_ENDPOINT_URL": s3_endpoint_url,
            "S3_REGION": s3_region,
            "S3_ACCESS_KEY_ID": s3_access_key_id,
            "S3_SECRET_ACCESS_KEY": s3_secret_access_key,
        }
        named = {f"DARKROOM_{name}": value for name, value in given.items() if value is not None}
        self._backend: Backend
        if url is None and token is None:
            self._backend = SqlBackend(settings.load("submitter", {**os.environ, **named}), patience_s)
        elif url is None or token is None or named:
            raise ClientError("url, token: are given together, and without the values of Postgres and S3")
        else:
            self._backend = HttpBackend(url, token, patience_s)

    def submit(
        self,
        model: str,
        request: Mapping[str, Any],
        *,
        queue: str = "default",
        priority: int = 0,
        idempotency_key: str | None = None,
        run_after: datetime | None = None,
        deadline: datetime | None = None,
        tags: Sequence[str] = (),
    ) -> Job:
        """Submit a job. docs/requests.md lists the fields of a request and what is permitted.

        model: name, name@alias or name@version. A key submitted before returns the job of that key; without one, the
        client makes one up, so that a lost connection leaves one job and not two. run_after, deadline: times without
        a time zone are local times. Raises ClientError if the job is refused.
        """
        return self.submit_many(
            [
                {
                    "model": model,
                    "request": request,
                    "queue": queue,
                    "priority": priority,
                    "idempotency_key": idempotency_key,
                    "run_after": run_after,
                    "deadline": deadline,
                    "tags": list(tags),
                }
            ]
        )[0]

    def submit_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Job]:
        """Submit jobs, each given by the arguments of `submit`, in one transaction: all of them or none.

        Raises ClientError if one is refused.
        """
        return [self.job(job_id) for job_id in self._backend.submit([_document(job) for job in jobs])]

    def submit_each(self, models: Sequence[str], request: Mapping[str, Any], **columns: Any) -> list[Job]:
        """Submit a job for each release with the same request and equal seeds, to compare them: all of them or none.

        columns: further arguments of `submit`, but for the key. `Job.pairs` has what two of the jobs have made of the
        same items. Raises ClientError if one is refused.
        """
        return self.submit_many(sibling_jobs(models, {**columns, "request": request}))

    def estimate(
        self, model: str, request: Mapping[str, Any], *, queue: str = "default", timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Return what a job would take, by a dry run; docs/sql.md describes the answer. It needs a dispatcher.

        Raises ClientError with every mistake of the request, and TimeoutError after `timeout_s` seconds.
        """
        dry_run = self.submit(model, {**request, "dry_run": True}, queue=queue)
        ended = dry_run.wait(timeout_s)
        found = self._backend.find_estimate(ended.id)
        if found is None:
            raise ClientError(ended.reason or f"the dry run {ended.id} ended {ended.state}")
        return found

    def job(self, job_id: uuid.UUID | str) -> Job:
        """Return a job that was submitted before, without asking whether it exists."""
        return Job(uuid.UUID(str(job_id)), self._backend)

    def jobs(self, limit: int = 20, which: JobFilter = EVERY_JOB) -> list[clients.JobSummary]:
        """Return the rows of up to `limit` jobs, newest first."""
        return self._backend.list_jobs(limit, which)

    def count_open(self, which: JobFilter) -> int:
        """Return how many jobs `cancel_many` would cancel now."""
        return self._backend.count_open(which)

    def cancel_many(self, which: JobFilter) -> int:
        """Ask every job that has not ended and that the filter finds to stop. Returns how many there were.

        Over HTTP at most 20,000 at a time.
        """
        return self._backend.cancel_many(which)

    def retry_many(self, which: JobFilter) -> int:
        """Retry every job that can be retried and that the filter finds. Returns how many there were.

        Raises ClientError if the tenant would have more open jobs than it may; those before it are retried. Over HTTP
        at most 20,000 at a time.
        """
        return self._backend.retry_many(which)

    def close(self) -> None:
        """Close the connections."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _document(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job as the SQL function `submit_jobs` takes it."""
    times = {
        name: job[name].astimezone().isoformat()
        for name in ("run_after", "deadline")
        if isinstance(job.get(name), datetime)
    }
    return {**job, **times, "idempotency_key": job.get("idempotency_key") or str(uuid.uuid4())}
