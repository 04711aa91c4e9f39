"""The backend that uses SQL and S3, with the tenant's own login and credentials."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from services.client.errors import Answer, ClientError, check_open, persist
from services.client.ranges import Range
from services.database import connections
from services.job_queue import clients, job_filters, outputs, pairs, viewing
from services.job_queue.clients import JobSummary, Progress
from services.job_queue.job_filters import JobFilter
from services.job_queue.outputs import Output
from services.job_queue.pairs import Pair
from services.settings import Settings
from services.storage.links import sign_link
from services.storage.object_store import ObjectStore

NO_RATINGS = "ratings belong to the console; permitted: over its HTTP API, Darkroom(url=..., token=...)"


class StoredFiles:
    """See `Files`: those of the bucket."""

    def __init__(self, store: ObjectStore, patience_s: float) -> None:
        self._store, self._patience_s = store, patience_s
        self._closed = threading.Event()
        self._lock, self._calls = threading.Lock(), 0  # calls under way, of all threads

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Use the connections. After `close`, the last call under way closes them: they are never opened again."""
        with self._lock:
            check_open(self._closed)
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                if self._closed.is_set() and not self._calls:
                    self._disconnect()

    def _persist(self, call: Callable[[], Answer], patience_s: float | None = None) -> Answer:
        def once() -> Answer:
            with self._call():
                return call()

        return persist(once, self._patience_s if patience_s is None else patience_s, self._closed)

    def _disconnect(self) -> None:
        self._store.client.close()

    def close(self) -> None:
        """See `Backend`."""
        with self._lock:
            self._closed.set()
            if not self._calls:
                self._disconnect()

    def read_image(self, job_id: uuid.UUID, index: int, key: str) -> bytes:
        """See `Files`."""
        return self._persist(lambda: self._store.get(key))

    def uri_of(self, key: str) -> str:
        """See `Files`."""
        return self._store.uri(key)

    def link(self, key: str, lifetime: timedelta) -> str:
        """See `Files`."""
        return sign_link(self._store, key, lifetime)


class SqlBackend(StoredFiles):
    """See `Backend`."""

    def __init__(self, settings: Settings, patience_s: float) -> None:
        super().__init__(ObjectStore.connect(settings), patience_s)
        self._engine = connections.connect(settings.database_url.get_secret_value())

    def _ask(self, query: Callable[[Connection], Answer], patience_s: float | None = None) -> Answer:
        def call() -> Answer:
            with self._engine.begin() as connection:
                return query(connection)

        return self._persist(call, patience_s)

    def _disconnect(self) -> None:
        super()._disconnect()
        self._engine.dispose()

    def submit(self, jobs: Sequence[Mapping[str, Any]]) -> list[uuid.UUID]:
        """See `Backend`."""
        return self._ask(lambda connection: list(clients.submit_jobs(connection, jobs)))

    def find_summary(self, job_id: uuid.UUID) -> JobSummary | None:
        """See `Backend`."""
        return self._ask(lambda connection: clients.find_summary(connection, job_id))

    def find_progress(self, job_id: uuid.UUID) -> Progress | None:
        """See `Backend`."""
        return self._ask(lambda connection: clients.find_progress(connection, job_id))

    def find_estimate(self, job_id: uuid.UUID) -> dict[str, Any] | None:
        """See `Backend`."""
        return self._ask(lambda connection: viewing.find_estimate(connection, job_id))

    def list_jobs(self, limit: int, which: JobFilter) -> list[JobSummary]:
        """See `Backend`."""
        return self._ask(lambda connection: job_filters.list_jobs(connection, limit, which))

    def count_open(self, which: JobFilter) -> int:
        """See `Backend`."""
        return self._ask(lambda connection: job_filters.count_jobs(connection, which))

    def cancel_many(self, which: JobFilter) -> int:
        """See `Backend`."""
        return sum(
            len(self._ask(partial(clients.cancel_jobs, job_ids=ids))) for ids in self._find(which, job_filters.OPEN)
        )

    def retry_many(self, which: JobFilter) -> int:
        """See `Backend`."""
        retried = 0
        for ids in self._find(which, job_filters.CAN_BE_RETRIED):
            for job_id in ids:
                self.retry(job_id)
                retried += 1
        return retried

    def _find(self, which: JobFilter, only: str) -> Iterator[list[uuid.UUID]]:
        last = None
        while found := self._ask(partial(job_filters.find_jobs, which=which, only=only, after=last)):
            yield found
            last = found[-1]

    def cancel(self, job_id: uuid.UUID) -> None:
        """See `Backend`."""
        self._ask(lambda connection: clients.cancel_jobs(connection, [job_id]))

    def change(self, job_id: uuid.UUID, changes: Mapping[str, Any]) -> None:
        """See `Backend`."""
        self._ask(lambda connection: clients.change_jobs(connection, [job_id], changes))

    def retry(self, job_id: uuid.UUID) -> int:
        """See `Backend`. A second call would be refused, as the first one may have arrived."""
        return self._ask(lambda connection: clients.retry_job(connection, job_id), patience_s=0)

    def read_ranges(self, job_id: uuid.UUID, ranges: Sequence[Range], limit: int) -> list[Output]:
        """See `Backend`."""
        return self._ask(lambda connection: outputs.read_ranges(connection, job_id, ranges, limit))

    def list_pairs(self, job_id: uuid.UUID, other: uuid.UUID, after: int, limit: int) -> list[Pair]:
        """See `Backend`."""
        return self._ask(lambda connection: pairs.list_pairs(connection, job_id, other, limit, after=after))

    def rate(self, job_id: uuid.UUID, index: int, rating: int) -> None:
        """See `Backend`."""
        raise ClientError(NO_RATINGS)

    def save_picks(self, job_id: uuid.UUID, rating: int, file: Path) -> None:
        """See `Backend`."""
        raise ClientError(NO_RATINGS)

    def read_manifest(self, job_id: uuid.UUID, key: str) -> dict[str, Any]:
        """See `Backend`."""
        manifest: dict[str, Any] = json.loads(self._persist(lambda: self._store.get(key)))
        return manifest
