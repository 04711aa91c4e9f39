"""The exporter: the queue as Prometheus gauges, read from Postgres on each scrape.

One process serves them, with a login that may read counts and no requests.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector
from sqlalchemy import Engine as Database

from services.database.connections import brief
from services.job_queue.load import QueueLoad, read_load
from services.job_queue.states import OPEN_WORK, ProcessKind
from services.job_queue.usage import UNITS

log = logging.getLogger("darkroom.exporter")

FRESH_S = 5.0  # scrapes within this time, by two Prometheus servers or a person, share one reading
TIMEOUT_S = 8.0  # below the 10 s that Prometheus waits
MAX_TENANTS = 50  # tenants that have a label of their own
OTHER_TENANTS = "*"  # no tenant can have this name

GAUGES = {
    "darkroom_exporter_up": "1 if Postgres could be read, else 0; the other gauges are absent while it is 0.",
    "darkroom_queue_evaluations": "Network evaluations of sampling that is not done.",
    "darkroom_queue_images": "Images of sampling that is not done.",
    "darkroom_queue_paused": "1 if no work of the queue is claimed.",
    "darkroom_open_jobs": "Jobs that have not ended.",
    "darkroom_oldest_job_seconds": "Age of the oldest open job, from when it could have started.",
    "darkroom_stalled_seconds": "The longest time for which a job in work has had no image settled.",
    "darkroom_processes": "Processes whose heartbeat is fresh.",
    "darkroom_usage_today": "What a tenant has used since midnight in UTC, by unit.",
    "darkroom_notification_queue_usage": "How full Postgres's queue of notifications is, from 0 to 1.",
    "darkroom_exporter_unreadable": "1 for each reading that failed while Postgres answers; its gauges are absent.",
}

LABELS = ("queue", "tenant", "state")
Samples = Mapping[tuple[str, ...], float]  # values by label values


class QueueCollector(Collector):
    """Reads the queue on a scrape. Gauges that cannot be read are absent, so that no graph shows stale numbers."""

    def __init__(self, database: Database, stale_s: float) -> None:
        self.database, self.stale_s = database, stale_s
        self.error: str | None = None
        # Postgres enforces its statement time-out only while it runs, so a thread waits for a frozen server.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._reading: Future[QueueLoad] | None = None
        self._lock = threading.Lock()
        self._families: list[Gauge] = []
        self._read_at = -FRESH_S
        self._progress: dict[str, tuple[int, float]] = {}  # job: its settled images, and since when
        self._unreadable: set[str] = set()  # readings whose failure is logged

    def describe(self) -> Iterable[Gauge]:
        """Return the gauges without values, and without reading Postgres."""
        return [Gauge(name, documentation) for name, documentation in GAUGES.items()]

    def collect(self) -> Iterator[Gauge]:
        """Yield the gauges of a reading that is at most FRESH_S old."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_S:
                self._families = list(self._read_gauges())
                self._read_at = time.monotonic()
            yield from self._families

    def _read_gauges(self) -> Iterator[Gauge]:
        try:
            load = self._wait_for_load()
        except Exception as error:  # A scrape never fails: alerts need `darkroom_exporter_up`.
            if self.error is None:
                log.warning("Postgres: %s", brief(error))
            self.error = brief(error)
            yield _gauge("darkroom_exporter_up", (), {(): 0})
            return
        self.error = None
        yield _gauge("darkroom_exporter_up", (), {(): 1})
        yield from self._gauges(load)

    def _wait_for_load(self) -> QueueLoad:
        """Return the load, or raise TimeoutError after TIMEOUT_S. A reading that is late serves the next scrape."""
        if self._reading is None:
            self._reading = self._reader.submit(self._read_load)
        try:
            load = self._reading.result(TIMEOUT_S)
        except TimeoutError:
            if not self._reading.done():
                raise TimeoutError(f"no answer within {TIMEOUT_S:.0f} s") from None
            raise
        finally:
            if self._reading.done():
                self._reading = None
        return load

    def _read_load(self) -> QueueLoad:
        with self.database.begin() as connection:
            return read_load(connection, self.stale_s)

    def _gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        """Yield the families of each reading. One that fails is absent, and silences no other."""
        unreadable: dict[tuple[str, ...], float] = {}
        for reading, make in (
            ("queues", self._queue_gauges),
            ("work", self._work_gauges),
            ("jobs", self._job_gauges),
            ("settled", self._progress_gauges),
            ("processes", self._process_gauges),
            ("usage", self._usage_gauges),
            ("notifications", self._notification_gauges),
        ):
            unreadable[(reading,)] = 0
            try:
                error = load.errors.get(reading)
                families = [] if error else list(make(load))
            except Exception as problem:  # Of any kind: the other readings are of use without this one.
                error, families = f"{type(problem).__name__}: {brief(problem)}", []
            if error:
                unreadable[(reading,)] = 1
                if reading not in self._unreadable:
                    log.warning("%s cannot be read: %s", reading, error)
                    self._unreadable.add(reading)
            else:
                self._unreadable.discard(reading)
            yield from families
        yield _gauge("darkroom_exporter_unreadable", ("reading",), unreadable)

    def _queue_gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        queues = load.queues or {}
        yield _gauge("darkroom_queue_paused", ("queue",), {(queue,): paused for queue, paused in queues.items()})

    def _work_gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        evaluations: dict[tuple[str, ...], float] = defaultdict(float)
        images: dict[tuple[str, ...], float] = defaultdict(float)
        for queue in load.queues or ():  # Alerts need the value 0 for an empty queue.
            for open_state in OPEN_WORK:
                evaluations[queue, "", open_state] = images[queue, "", open_state] = 0
        label = tenant_labels(load)
        for (queue, tenant, state), (evaluation_count, image_count) in (load.work or {}).items():
            evaluations[queue, label(tenant), state] += evaluation_count
            images[queue, label(tenant), state] += image_count
        yield _gauge("darkroom_queue_evaluations", LABELS, evaluations)
        yield _gauge("darkroom_queue_images", LABELS, images)

    def _job_gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        jobs: dict[tuple[str, ...], float] = defaultdict(float)
        ages: dict[tuple[str, ...], float] = defaultdict(float)
        label = tenant_labels(load)
        for (queue, tenant, state), (count, age) in (load.jobs or {}).items():
            jobs[queue, label(tenant), state] += count
            ages[queue, label(tenant), state] = max(ages[queue, label(tenant), state], age)
        yield _gauge("darkroom_open_jobs", LABELS, jobs)
        yield _gauge("darkroom_oldest_job_seconds", LABELS, ages)

    def _progress_gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        stalled = self._stalled_seconds(load.queues or {}, load.settled or {})
        yield _gauge("darkroom_stalled_seconds", ("queue",), stalled)

    def _process_gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        alive = load.processes or {}
        yield _gauge("darkroom_processes", ("kind",), {(kind,): alive.get(kind, 0) for kind in ProcessKind})

    def _usage_gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        label, used = tenant_labels(load), defaultdict[tuple[str, ...], float](float, {("", unit): 0 for unit in UNITS})
        for usage in load.usage or ():
            for unit in UNITS:
                used[label(usage.tenant), unit] += getattr(usage, unit)
        yield _gauge("darkroom_usage_today", ("tenant", "unit"), used)

    def _notification_gauges(self, load: QueueLoad) -> Iterator[Gauge]:
        yield _gauge("darkroom_notification_queue_usage", (), {(): load.notifications or 0})

    def _stalled_seconds(self, queues: Iterable[str], settled: Mapping[str, tuple[str, int]]) -> Samples:
        """Return of each queue the longest time since a job in work had an image settled, as this process saw it."""
        now = time.monotonic()
        longest: dict[tuple[str, ...], float] = {(queue,): 0.0 for queue in queues}
        progress = {}
        for job, (queue, count) in settled.items():
            before = self._progress.get(job)
            progress[job] = before if before is not None and before[0] == count else (count, now)
            longest[(queue,)] = max(longest.get((queue,), 0.0), now - progress[job][1])
        self._progress = progress
        return longest


def tenant_labels(load: QueueLoad) -> Callable[[str], str]:
    """Return the function from a tenant to its label: its name for the MAX_TENANTS with most work, else "*".

    The limit keeps the number of time series bounded.
    """
    evaluations: dict[str, int] = defaultdict(int)
    for (_, tenant, _), (count, _) in (load.work or {}).items():
        evaluations[tenant] += count
    for _, tenant, _ in load.jobs or ():
        evaluations[tenant] += 0
    for usage in load.usage or ():
        evaluations[usage.tenant] += 0
    busiest = set(sorted(evaluations, key=lambda tenant: (-evaluations[tenant], tenant))[:MAX_TENANTS])
    return lambda tenant: tenant if tenant in busiest else OTHER_TENANTS


def _gauge(name: str, labels: tuple[str, ...], samples: Samples) -> Gauge:
    family = Gauge(name, GAUGES[name], labels=labels)
    for values, sample in samples.items():
        family.add_metric(values, float(sample))
    return family


class ExporterHealth:
    """The exporter lives while it answers, and is ready while it can read Postgres."""

    def __init__(self, collector: QueueCollector) -> None:
        self.collector = collector

    def live(self) -> list[str]:
        """Return no reasons: a restart would not bring Postgres back."""
        return []

    def started(self) -> list[str]:
        """Return no reasons: there is nothing to load."""
        return []

    def ready(self) -> list[str]:
        """Return the reason why Postgres cannot be read, if it cannot."""
        for _ in self.collector.collect():
            pass
        return [] if self.collector.error is None else [f"Postgres cannot be read: {self.collector.error}"]


def make_registry(collector: QueueCollector) -> CollectorRegistry:
    """Return a registry of the exporter's own gauges, without the counters of workers."""
    from prometheus_client import PlatformCollector, ProcessCollector

    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
