"""The entry to the client."""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from services import settings
from services.client.errors import ClientError, ask
from services.client.job import Job
from services.database import connections
from services.job_queue import clients, job_filters
from services.job_queue.job_filters import EVERY_JOB, JobFilter
from services.storage.object_store import ObjectStore


class Darkroom:
    """A tenant's connection to the service. One may be shared by threads; close it, or use it in a `with` block."""

    def __init__(
        self,
        *,
        database_url: str | None = None,
        s3_bucket: str | None = None,
        s3_endpoint_url: str | None = None,
        s3_region: str | None = None,
        s3_access_key_id: str | None = None,
        s3_secret_access_key: str | None = None,
        patience_s: float = 300.0,
    ) -> None:
        """Prepare connections. Each value that is left out comes from its DARKROOM_* variable, else the local stack.

        database_url: with the tenant's login. patience_s: how long a call is repeated while Postgres or S3 is away.
        Raises SettingsError for a value that is missing or malformed.
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
        values = settings.load("submitter", {**os.environ, **named})
        self._engine = connections.connect(values.database_url.get_secret_value())
        self._store = ObjectStore.connect(values)
        self._patience_s = patience_s

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
        """Submit a job. docs/sql.md lists the fields of a request and what is permitted.

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
        documents = [_document(job) for job in jobs]
        ids = ask(self._engine, lambda connection: list(clients.submit_jobs(connection, documents)), self._patience_s)
        return [self.job(job_id) for job_id in ids]

    def estimate(
        self, model: str, request: Mapping[str, Any], *, queue: str = "default", timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Return what a job would take, by a dry run; docs/sql.md describes the answer. It needs a dispatcher.

        Raises ClientError with every mistake of the request, and TimeoutError after `timeout_s` seconds.
        """
        dry_run = self.submit(model, {**request, "dry_run": True}, queue=queue)
        ended = dry_run.wait(timeout_s)
        job = ask(self._engine, lambda connection: clients.find_job(connection, ended.id), self._patience_s)
        if job is None or job.estimate is None:
            raise ClientError(ended.reason or f"the dry run {ended.id} ended {ended.state}")
        return job.estimate

    def job(self, job_id: uuid.UUID | str) -> Job:
        """Return a job that was submitted before, without asking whether it exists."""
        return Job(uuid.UUID(str(job_id)), self._engine, self._store, self._patience_s)

    def jobs(self, limit: int = 20, which: JobFilter = EVERY_JOB) -> list[clients.JobSummary]:
        """Return the rows of up to `limit` jobs, newest first."""
        return ask(self._engine, lambda connection: job_filters.list_jobs(connection, limit, which), self._patience_s)

    def count_open(self, which: JobFilter) -> int:
        """Return how many jobs `cancel_many` would cancel now."""
        return ask(self._engine, lambda connection: job_filters.count_jobs(connection, which), self._patience_s)

    def cancel_many(self, which: JobFilter) -> int:
        """Ask every job that has not ended and that the filter finds to stop. Returns how many there were."""
        cancelled = 0
        for ids in self._find(which, job_filters.OPEN):
            cancelled += len(ask(self._engine, partial(clients.cancel_jobs, job_ids=ids), self._patience_s))
        return cancelled

    def retry_many(self, which: JobFilter) -> int:
        """Retry every job that can be retried and that the filter finds. Returns how many there were.

        Raises ClientError if the tenant would have more open jobs than it may; those before it are retried.
        """
        retried = 0
        for ids in self._find(which, job_filters.CAN_BE_RETRIED):
            for job_id in ids:
                self.job(job_id).retry()
                retried += 1
        return retried

    def _find(self, which: JobFilter, only: str) -> Iterator[list[uuid.UUID]]:
        last = None
        while found := ask(
            self._engine, partial(job_filters.find_jobs, which=which, only=only, after=last), self._patience_s
        ):
            yield found
            last = found[-1]

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
        self._store.client.close()

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
