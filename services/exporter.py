"""The queue as gauges, read from Postgres when Prometheus asks: by one process, with rights to see numbers alone."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.job_queue.load import QueueLoad, read_load
from services.job_queue.states import OPEN_WORK, ProcessKind

log = logging.getLogger("darkroom.exporter")

FRESH_S = 5.0  # two Prometheus servers, or a person beside one, cost one reading
TIMEOUT_S = 8.0  # shorter than the time-out of a scrape
TENANTS = 50
OTHERS = "*"  # no tenant can have this name

GAUGES = {
    "darkroom_exporter_up": "Whether Postgres could be read; the other gauges are there only then.",
    "darkroom_queue_evaluations": "Network evaluations of sampling that is not done.",
    "darkroom_queue_images": "Images of sampling that is not done.",
    "darkroom_queue_paused": "Whether nothing is claimed from a queue.",
    "darkroom_open_jobs": "Jobs that have not ended.",
    "darkroom_oldest_job_seconds": "Age of the oldest of them, from when it could have begun.",
    "darkroom_stalled_seconds": "For how long a job that is worked on has had no image settled, the longest.",
    "darkroom_processes": "Processes whose heartbeat is fresh.",
}


class QueueCollector(Collector):
    """Reads at a scrape. What cannot be read is absent, so that no graph shows numbers of yesterday."""

    def __init__(self, database: Database, stale_s: float) -> None:
        self.database, self.stale_s = database, stale_s
        self.error: str | None = None
        # A server that is frozen keeps no time-out of its own.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._reading: Future[QueueLoad] | None = None
        self._lock = threading.Lock()
        self._families: list[Gauge] = []
        self._read_at = -FRESH_S
        self._moved: dict[str, tuple[int, float]] = {}  # job: images settled, since when

    def describe(self) -> Iterable[Gauge]:
        """The names, without asking Postgres."""
        return [Gauge(name, told) for name, told in GAUGES.items()]

    def collect(self) -> Iterator[Gauge]:
        """The gauges of now, or of at most FRESH_S ago."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_S:
                self._families = list(self._collected())
                self._read_at = time.monotonic()
            yield from self._families

    def _collected(self) -> Iterator[Gauge]:
        try:
            reading = self._answer()
        except (DBAPIError, TimeoutError) as error:
            if self.error is None:
                log.warning("Postgres: %s", brief(error))
            self.error = brief(error)
            yield _gauge("darkroom_exporter_up", (), {(): 0})
            return
        self.error = None
        yield _gauge("darkroom_exporter_up", (), {(): 1})
        yield from self._gauges(reading)

    def _answer(self) -> QueueLoad:
        """What Postgres says; one that does not answer is waited for no longer than Prometheus would wait."""
        if self._reading is None:
            self._reading = self._reader.submit(self._read)
        try:
            reading = self._reading.result(TIMEOUT_S)
        except TimeoutError:
            if not self._reading.done():
                raise TimeoutError(f"no answer within {TIMEOUT_S:.0f} s") from None
            raise
        finally:
            if self._reading.done():
                self._reading = None
        return reading

    def _read(self) -> QueueLoad:
        with self.database.begin() as connection:
            return read_load(connection, self.stale_s)

    def _gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        labels = ("queue", "tenant", "state")
        evaluations: dict[tuple[str, ...], float] = defaultdict(float)
        images: dict[tuple[str, ...], float] = defaultdict(float)
        jobs: dict[tuple[str, ...], float] = defaultdict(float)
        ages: dict[tuple[str, ...], float] = defaultdict(float)
        for queue in load.queues:  # an empty queue is 0 to an alert, and not nothing
            for open_state in OPEN_WORK:
                evaluations[queue, "", open_state] = images[queue, "", open_state] = 0
        named = self._named(load)
        for (queue, tenant, state), (count, pictures) in load.work.items():
            evaluations[queue, named(tenant), state] += count
            images[queue, named(tenant), state] += pictures
        for (queue, tenant, state), (count, age) in load.jobs.items():
            jobs[queue, named(tenant), state] += count
            ages[queue, named(tenant), state] = max(ages[queue, named(tenant), state], age)
        yield _gauge("darkroom_queue_evaluations", labels, evaluations)
        yield _gauge("darkroom_queue_images", labels, images)
        yield _gauge("darkroom_queue_paused", ("queue",), {(queue,): paused for queue, paused in load.queues.items()})
        yield _gauge("darkroom_open_jobs", labels, jobs)
        yield _gauge("darkroom_oldest_job_seconds", labels, ages)
        yield _gauge("darkroom_stalled_seconds", ("queue",), self._stalled(load))
        yield _gauge("darkroom_processes", ("kind",), {(kind,): load.processes.get(kind, 0) for kind in ProcessKind})

    def _named(self, load: QueueLoad) -> Any:
        """A tenant's label: its name, if it is among those with most work, so that there are never many series."""
        work: dict[str, int] = defaultdict(int)
        for (_, tenant, _), (evaluations, _) in load.work.items():
            work[tenant] += evaluations
        for _, tenant, _ in load.jobs:
            work[tenant] += 0
        shown = set(sorted(work, key=lambda tenant: (-work[tenant], tenant))[:TENANTS])
        return lambda tenant: tenant if tenant in shown else OTHERS

    def _stalled(self, load: QueueLoad) -> dict[tuple[str, ...], float]:
        moment, longest = time.monotonic(), dict.fromkeys(((queue,) for queue in load.queues), 0.0)
        moved = {}
        for job, (queue, settled) in load.settled.items():
            before = self._moved.get(job)
            moved[job] = before if before is not None and before[0] == settled else (settled, moment)
            longest[(queue,)] = max(longest[(queue,)], moment - moved[job][1])
        self._moved = moved
        return {key: value for key, value in longest.items()}


def _gauge(name: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float] | Any) -> Gauge:
    family = Gauge(name, GAUGES[name], labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


class ExporterHealth:
    """It lives as long as it answers; it is ready while Postgres can be read."""

    def __init__(self, collector: QueueCollector) -> None:
        self.collector = collector

    def live(self) -> list[str]:
        """Nothing: to start it again would not bring Postgres back."""
        return []

    def started(self) -> list[str]:
        """Nothing: it has nothing to load."""
        return []

    def ready(self) -> list[str]:
        """Against being ready: a database that cannot be read."""
        for _ in self.collector.collect():
            pass
        return [] if self.collector.error is None else [f"Postgres cannot be read: {self.collector.error}"]


def registry(collector: QueueCollector) -> CollectorRegistry:
    """The exporter's gauges alone: what the engine counts is of workers."""
    from prometheus_client import PlatformCollector, ProcessCollector

    own = CollectorRegistry()
    own.register(collector)
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    return own
