"""A worker: claims sampling work, develops its images, stores them, settles the work; drains when told to stop.

One thread runs the engine, a few read what it needs next, a few encode and upload, one keeps the heartbeat, one watches
for jobs that are to stop, one ends the process if the engine hangs.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.job_queue import claims, jobs, maintenance, outputs
from services.job_queue.leases import LeaseLost
from services.job_queue.outputs import Output
from services.job_queue.states import ProcessKind
from services.job_requests.image_spec import image_spec
from services.observability import logs, metrics
from services.process.health import Health
from services.process.heartbeat import Heartbeat
from services.process.watchdog import Watchdog
from services.settings import Settings
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from services.worker.engine import DeviceFault, Engine, OutOfMemory
from services.worker.engine_cache import EngineCache
from services.worker.held_shards import HeldShard, Holdings
from services.worker.prefetch import Loaded, Loader
from services.worker.preload import Preload
from services.worker.uploader import Uploader

log = logging.getLogger("darkroom.worker")

PAUSE_AFTER_ERROR_S = 2.0
WATCH_S = 1.0
EXIT_DEVICE = 71  # EX_OSERR of sysexits.h


class Worker:
    """The life of one worker process. `start` returns at once; `stop` drains and returns when all is settled."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore) -> None:
        self.settings, self.database, self.store = settings, database, store
        self.watchdog = Watchdog(settings.step_limit_s)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._dropped: deque[HeldShard] = deque()  # the engine belongs to its thread, which removes these
        self.holdings = Holdings(database, self._drop)
        self.heartbeat = Heartbeat(database, ProcessKind.WORKER, settings.heartbeat_s, self.holdings.tokens)
        self._uploader = Uploader(store, self.holdings)
        self._loader = Loader(store, self._wake.set)
        self._engines = EngineCache(store, settings)
        self._preload = Preload(settings.preload, database, self._engines)
        self.health = Health(self.heartbeat, self.watchdog, settings.stale_s, self._preload.left)
        self._engine: Engine | None = None
        self._waiting: HeldShard | None = None  # of another release, or a suspect: until nothing else is under way
        self._alone: HeldShard | None = None
        self._claims_from = 0.0  # after trouble that passes with time, when to claim again
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Register and begin to claim."""
        for queue in self.settings.queues:
            metrics.SERVES.labels(queue).set(1)
        self.heartbeat.start()
        log.info("worker %s serves queues %s", self.heartbeat.id, ", ".join(self.settings.queues))
        self._thread.start()
        self._watcher.start()
        self.watchdog.start()

    def wake(self) -> None:
        """A hint: there may be work."""
        self._wake.set()

    def stop(self) -> None:
        """Claim no more, finish what fits the drain time, give the rest back without spending an attempt."""
        self.health.draining = True
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self.watchdog.stop()
        self._loader.stop()
        self._uploader.stop(self.settings.drain_s)
        self._stopped.set()
        self._watcher.join()
        self.heartbeat.stop()
        log.info("worker %s stopped", self.heartbeat.id)

    # -- the engine thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.watchdog.tick()
            try:
                if not len(self.holdings):
                    self._preload.go_on(self.watchdog)
                self._remove_dropped()
                self._claim()
                self._begin_waiting()
                self._begin_loaded()
                if self._engine is not None and self._engine.busy:
                    self._advance(self._engine)
                    continue
            except DBAPIError as error:
                log.warning("database: %s; trying again", brief(error))
                self._stopping.wait(PAUSE_AFTER_ERROR_S)
                continue
            self._wake.wait(self.settings.poll_s)
            self._wake.clear()
        self._drain()

    def _claim(self) -> None:
        """Lease work while the next step has room for it."""
        while (
            self._waiting is None
            and time.monotonic() >= self._claims_from
            and self._loader.has_room
            and (self._alone is None or self._alone not in self.holdings)
            and (self._engine is None or self._engine.free_rows > 0)
        ):
            shard = self._claimed()
            if shard is None:
                return
            engine = self._engine
            if not shard.open:
                self._ending(shard, self.holdings.finish, shard)
            elif engine is None or engine.release.digest != shard.lease.pack_key or shard.lease.suspect:
                self._waiting = shard
            else:
                self._loader.add(shard)

    def _claimed(self) -> HeldShard | None:
        with self.database.begin() as connection:
            release = self._engine.release.digest if self._engine is not None else None
            found = claims.claim_sampling(connection, self.heartbeat.id, queues=self.settings.queues, release=release)
            if not found:
                return None
            (lease,) = found
            waited = jobs.begin_sampling(connection, lease)
            job = jobs.find_sampling_job(connection, lease.job_id)
            settled = outputs.settled_indices(connection, lease.job_id, lease.start, lease.stop)
        shard = HeldShard(lease, job.plan, job.manifest, set(range(lease.start, lease.stop)) - settled)
        self.holdings.add(shard)
        if waited is not None:
            metrics.PICK_UP_SECONDS.labels(lease.queue).observe(waited)
        log.info("work %d of job %s begins", lease.id, lease.job_id, extra=logs.lease_fields(lease))
        return shard

    def _begin_waiting(self) -> None:
        """Begin what had to wait, once it may: another release when the engine is idle, a suspect when all is done."""
        shard = self._waiting
        if shard is None or self._loader.busy or (self._engine is not None and self._engine.busy):
            return
        if shard not in self.holdings:  # stopped meanwhile
            self._waiting = None
            return
        if shard.lease.suspect and len(self.holdings) > 1:
            return  # images of others are still being stored
        self._waiting = None
        try:
            if shard.lease.suspect:
                with self.database.begin() as connection:
                    claims.isolate(connection, shard.lease)
                self._alone = shard
            self._engine = None  # so that it can leave memory before another takes its place
            self.watchdog.pause()  # fetching has its own time-outs
            self._engine = self._engines.get(shard.manifest)
            self.watchdog.tick()
            self.heartbeat.profile = self._engine.profile
        except LeaseLost:
            self.holdings.lost(shard)
            return
        except DBAPIError:
            self.holdings.give_back(shard)
            raise
        except Exception as error:
            self._cannot_begin(shard, f"the release cannot be loaded: {brief(error)}", error)
            return
        self._loader.add(shard)

    def _cannot_begin(self, shard: HeldShard, told: str, error: Exception) -> None:
        """S3 that is away, or this machine's disk, is no fault of the work: another try costs it nothing."""
        log.warning(
            "work %d of job %s: %s", shard.lease.id, shard.lease.job_id, told, extra=logs.lease_fields(shard.lease)
        )
        if is_transient(error) or isinstance(error, OSError):
            self._claims_from = time.monotonic() + PAUSE_AFTER_ERROR_S
            self.holdings.give_back(shard)
        else:
            self.holdings.give_up(shard, told)

    def _begin_loaded(self) -> None:
        while (loaded := self._loader.take()) is not None:
            if loaded.error is not None:
                told = f"its items cannot be read: {brief(loaded.error)}"
                self._cannot_begin(loaded.shard, told, loaded.error)
            elif loaded.shard not in self.holdings:  # stopped meanwhile
                continue
            elif self._engine is None:  # it ran out of memory meanwhile
                self.holdings.give_back(loaded.shard)
            else:
                self._begin(self._engine, loaded)

    def _begin(self, engine: Engine, loaded: Loaded) -> None:
        """Let a shard's images join. One whose conditions cannot be used fails alone."""
        shard = loaded.shard
        for index in sorted(shard.open):
            number = index // shard.plan["images_per_item"]
            seed = None
            try:
                if number in loaded.problems:
                    raise ValueError(loaded.problems[number])
                spec = image_spec(shard.plan, loaded.items[number], engine.condition_names, index)
                seed = spec.seed
                engine.add(shard, spec)
            except ValueError as error:  # a condition that its schema permits and the model cannot use
                record = Output.failure(index, number, str(error), seed=seed)
                self._ending(shard, self.holdings.settle, shard, record)

    def _ending(self, shard: HeldShard, end: Callable[..., None], *arguments: Any) -> None:
        try:
            end(*arguments)
        except LeaseLost:
            self.holdings.lost(shard)
        except DBAPIError:
            self.holdings.forget(shard)  # half begun; the heartbeat gives it back
            raise

    def _advance(self, engine: Engine) -> None:
        try:
            developed = engine.step()
        except OutOfMemory as error:
            self._shrink(engine, error)
            return
        except DeviceFault as error:
            self._die(engine, error)
        except Exception as error:  # a failing step is held against the work in it, never against the process
            log.exception("a step failed")
            for shard in engine.owners():
                self.holdings.suspect(shard, f"{type(error).__name__}: {error}")
            self._remove_dropped()
            return
        for image in developed:
            self._uploader.add(image, engine.profile, self.watchdog.tick)

    def _shrink(self, engine: Engine, error: OutOfMemory) -> None:
        """Go on with half the rows; images that were under way begin again under the smaller profile."""
        shards = engine.owners()
        self._engine = None
        smaller = self._engines.shrink(engine)
        log.warning("out of memory with %d rows (%s); going on with %s", engine.rows, error, smaller or "no fewer")
        for shard in shards:
            if smaller:
                self.holdings.give_back(shard)
            else:
                self.holdings.suspect(shard, f"out of memory with {engine.rows} rows: {error}")

    def _die(self, engine: Engine, error: DeviceFault) -> NoReturn:
        """End the process, as its death would: only that nobody waits for its heartbeat to be stale."""
        log.critical("the device fails: %s; ending this process", error)
        for shard in engine.owners():
            self.holdings.suspect(shard, f"the device failed: {error}")
        self._uploader.stop(self.settings.drain_s)
        self.heartbeat.stop()
        os._exit(EXIT_DEVICE)

    def _drop(self, shard: HeldShard) -> None:
        self._dropped.append(shard)
        self._wake.set()

    def _remove_dropped(self) -> None:
        while self._dropped:
            shard = self._dropped.popleft()
            if self._engine is not None:
                self._engine.remove(shard)

    # -- watching, and the end ---------------------------------------------------------------------

    def _watch(self) -> None:
        """Every second: which of the held jobs are to stop."""
        while not self._stopped.wait(WATCH_S):
            held = self.holdings.all()
            if not held:
                continue
            try:
                with self.database.begin() as connection:
                    requests = maintenance.find_stop_requests(connection, list({shard.lease.job_id for shard in held}))
            except DBAPIError as error:
                log.warning("database: %s", brief(error))
                continue
            for request in requests:
                for shard in held:
                    if shard.lease.job_id == request.job_id:
                        self.holdings.stop(shard, request)

    def _drain(self) -> None:
        deadline = time.monotonic() + self.settings.drain_s
        while self._engine is not None and self._engine.busy and time.monotonic() < deadline:
            self.watchdog.tick()
            self._remove_dropped()
            self._advance(self._engine)
        if self._engine is not None and self._engine.busy:
            log.info("the drain time is over; unfinished images are given back")
