"""The sampling thread: it claims shards, runs the engine on their images, and drains when the worker stops.

A worker samples one release at a time. A shard of another release waits until the engine is idle. A suspect, which may
have crashed earlier processes, waits until nothing else is held, and then runs alone.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeGuard

from sqlalchemy import Engine as Database

from services.database.connections import brief, describe
from services.job_queue import claims
from services.job_queue.leases import LeaseLost
from services.job_queue.outputs import Output
from services.observability import logs
from services.process.heartbeat import Heartbeat
from services.process.threads import start_thread
from services.process.watchdog import Watchdog
from services.registry.release_cache import CacheError
from services.settings import Settings
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from services.worker.claimer import Claimer
from services.worker.device_faults import TOO_LARGE, DeviceFault, OutOfMemory, UnstableProfile
from services.worker.engine import Engine
from services.worker.engine_cache import EngineCache
from services.worker.held_shards import HeldShard, HeldShards
from services.worker.images import Failed
from services.worker.prefetch import PrefetchedShard, Prefetcher
from services.worker.preload import Preload
from services.worker.release_backoff import ReleaseBackoff
from services.worker.settler import Settler
from services.worker.uploader import Uploader

log = logging.getLogger("darkroom.worker")

PAUSE_AFTER_ERROR_S = 2.0
MAX_FAILURES = 10  # rounds in a row that fail for a reason that does not pass; the process then exits
EXIT_DEVICE = 71  # EX_OSERR of sysexits.h


class SamplingLoop:
    """Runs the engine in a thread of its own, from `start` to `stop`.

    wake: set when there may be something to do: a hint, a prefetched shard, a shard that has ended.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: ObjectStore,
        shards: HeldShards,
        heartbeat: Heartbeat,
        watchdog: Watchdog,
        wake: threading.Event,
    ) -> None:
        self.settings, self.database, self.shards = settings, database, shards
        self.heartbeat, self.watchdog = heartbeat, watchdog
        self._engines = EngineCache(store, settings)
        self.backoff = ReleaseBackoff()
        self.preload = Preload(settings.preload, database, self._engines)
        self._prefetcher = Prefetcher(store, on_ready=wake.set)
        self._claimer = Claimer(database, shards, heartbeat, settings, on_ready=wake.set)
        self._settler = Settler(shards)
        self._uploader = Uploader(store, shards, self._settler)
        self._wake, self._stopping = wake, threading.Event()
        self._thread: threading.Thread | None = None
        self._engine: Engine[HeldShard] | None = None
        self._waiting: HeldShard | None = None  # a shard of another release, or a suspect
        self._waiting_since = 0.0
        self._isolated: HeldShard | None = None  # a suspect that runs alone
        self._next_claim = 0.0  # when to claim again after a transient error

    def start(self) -> None:
        """Start the thread, and the watchdog over it."""
        self._uploader.start()
        self._thread = start_thread(self._run, "engine")
        self.watchdog.start()

    def announce(self) -> None:
        """Claim now: there may be work."""
        self._claimer.announce()
        self._wake.set()

    def stop(self) -> None:
        """Drain: sample and store what fits the drain time, then return when every image is settled or released."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self.watchdog.stop()
        self._claimer.stop()
        self._prefetcher.stop()
        self._uploader.stop(self.settings.drain_s)

    def _run(self) -> None:
        failures = 0  # in a row, for which no shard is to blame
        while not self._stopping.is_set():
            self.watchdog.tick()
            try:
                self._work()
                failures = 0
            except DeviceFault as error:
                self._exit([], error)
            except Exception as error:
                if not is_transient(error):
                    failures += 1
                    log.exception("the sampling loop failed")
                    if failures == MAX_FAILURES:
                        raise
                log.warning("%s; retrying", describe(error))
                self._stopping.wait(PAUSE_AFTER_ERROR_S)
        self._drain()

    def _work(self) -> None:
        """Claim and start what there is room for, and take one step; without anything to sample, wait."""
        if not len(self.shards):
            self.preload.load_pending(self.watchdog)
        self._remove_ended()
        self._take_claimed()
        self._start_claim()
        self._start_waiting()
        self._start_prefetched()
        if self._is_sampling(self._engine):
            self._step(self._engine)
            return
        self._wake.wait(self.settings.poll_s)
        self._wake.clear()

    def _drain(self) -> None:
        deadline = time.monotonic() + self.settings.drain_s
        while self._is_sampling(self._engine) and time.monotonic() < deadline:
            self.watchdog.tick()
            self._remove_ended()
            self._step(self._engine)
        if self._is_sampling(self._engine):
            log.info("the drain time is over; shards with unfinished images return to the queue")

    # -- claiming ------------------------------------------------------------------------------

    def _start_claim(self) -> None:
        """Start to claim shards if steps that begin soon have rows for them."""
        is_free = self._waiting is None and (self._isolated is None or self._isolated not in self.shards)
        if is_free and time.monotonic() >= self._next_claim and self._prefetcher.has_room:
            fetching, slow = self._prefetcher.images, self._prefetcher.slow_tenants()
            self._claimer.start(self._engine, fetching, self.backoff.paused(), slow)

    def _take_claimed(self) -> None:
        """Start to read the items of the shards that were claimed."""
        for claimed in self._claimer.take():
            shard, engine = claimed.shard, self._engine
            if claimed.error is not None:
                self._reject(shard, f"its job cannot be read: {describe(claimed.error)}", claimed.error)
            elif shard not in self.shards:  # it was stopped while it was read
                continue
            elif not shard.unsettled:
                with self._blaming(shard, "it cannot be ended"):
                    self.shards.settle({shard: []})
            elif engine is not None and engine.release.digest == shard.lease.pack_key and not shard.lease.suspect:
                self._prefetcher.add(shard, engine)
            elif self._waiting is None:
                self._waiting, self._waiting_since = shard, time.monotonic()
            else:  # the engine ran out of memory in the meantime
                self.shards.return_to_queue(shard)

    @staticmethod
    def _is_sampling(engine: Engine[HeldShard] | None) -> TypeGuard[Engine[HeldShard]]:
        return engine is not None and engine.busy

    @contextmanager
    def _blaming(self, shard: HeldShard, problem: str) -> Iterator[None]:
        """Fail an attempt of the shard if the block raises."""
        try:
            yield
        except Exception as error:
            self._reject(shard, f"{problem}: {describe(error)}", error)

    def _start_waiting(self) -> None:
        """Start the waiting shard if it may run now: load its release, or isolate it as a suspect."""
        shard = self._waiting
        if shard is None or self._claimer.busy or self._prefetcher.busy or self._is_sampling(self._engine):
            return
        if shard not in self.shards:  # it was stopped while it waited
            self._waiting = None
            return
        if shard.lease.suspect and len(self.shards) > 1:
            return  # images of other shards are still being stored
        self._waiting = None
        try:
            if shard.lease.suspect:
                with self.database.connect() as connection:
                    claims.isolate(connection, shard.lease)
                self._isolated = shard
            self._engine = None  # frees its memory before another engine takes any
            self.watchdog.pause()  # a download has timeouts of its own
            self._engine = self._engines.get(shard.manifest)
            self.watchdog.tick()
            self.heartbeat.profile = self._engine.profile
            self.backoff.clear(self._engine.release.digest)
            self._claimer.claims.begin_slice(time.monotonic() - self._waiting_since)
        except LeaseLost:
            self.shards.drop_lost(shard)
        except DeviceFault as error:
            self._exit([shard], error)
        except (CacheError, UnstableProfile, OSError) as error:
            self._leave_to_others(shard, error)
        except Exception as error:
            advice = f". {TOO_LARGE}" if isinstance(error, OutOfMemory) else ""
            self._reject(shard, f"the release cannot be loaded: {describe(error)}{advice}", error)
        else:
            self._prefetcher.add(shard, self._engine)

    def _start_prefetched(self) -> None:
        while (prefetched := self._prefetcher.take()) is not None:
            shard = prefetched.shard
            if prefetched.error is not None:
                self.shards.reject_unread(shard, prefetched.error)
            elif shard not in self.shards:  # it was stopped while it was read
                continue
            elif self._engine is None:  # the engine ran out of memory in the meantime
                self.shards.return_to_queue(shard)
            else:
                with self._blaming(shard, "its images cannot be started"):
                    self._add_images(self._engine, prefetched)

    def _leave_to_others(self, shard: HeldShard, error: Exception) -> None:
        """Return a shard to the queue, whose release this worker cannot load, and claim none of it for a while."""
        pause = self.backoff.add_failure(shard.manifest["digest"], brief(error))
        problem = f"release {shard.manifest['name']} cannot be loaded: {brief(error)}"
        log.warning("%s; it is not claimed for %.0f s", problem, pause, extra=logs.lease_fields(shard.lease))
        self.shards.return_to_queue(shard)

    def _reject(self, shard: HeldShard, message: str, error: Exception) -> None:
        """Fail an attempt, or return the shard to the queue and claim nothing for a moment."""
        if not self.shards.reject(shard, message, error):
            self._next_claim = time.monotonic() + PAUSE_AFTER_ERROR_S

    def _add_images(self, engine: Engine[HeldShard], prefetched: PrefetchedShard) -> None:
        """Add a shard's images to the engine. An image that cannot be made fails alone."""
        for image in prefetched.images.values():
            if isinstance(image, Output):
                self._settler.add(prefetched.shard, image)
            else:
                engine.add(prefetched.shard, image)

    # -- stepping ------------------------------------------------------------------------------

    def _step(self, engine: Engine[HeldShard]) -> None:
        began = time.monotonic()
        try:
            images = engine.step()
        except OutOfMemory as error:
            return self._recover(engine, error)
        except DeviceFault as error:
            self._exit(engine.owners(), error)
        except Exception as error:  # a failing step counts against the shards in it, never against the process
            log.exception("a step failed")
            for shard in engine.owners():
                self.shards.record_loss(shard, f"{type(error).__name__}: {error}")
            return self._remove_ended()
        self._claimer.note_step(time.monotonic() - began)
        for image in images:
            if isinstance(image, Failed):
                spec = image.spec
                self._settler.add(image.owner, Output.failure(spec.index, spec.item, image.error, seed=spec.seed))
                continue
            self._uploader.add(image, image.profile, self.watchdog.tick)

    def _remove_ended(self) -> None:
        for shard in self.shards.take_removed():
            if self._engine is not None:
                self._engine.remove(shard)

    def _recover(self, engine: Engine[HeldShard], error: OutOfMemory) -> None:
        """Make room. Images in the batch restart, under another profile if the rows had to be halved."""
        shards, self._engine = engine.owners(), None
        has_room = self._engines.recover(engine, error)
        for shard in shards:
            if has_room:
                self.shards.return_to_queue(shard)
            else:
                self.shards.record_loss(shard, f"out of memory with {engine.rows} rows: {error}. {TOO_LARGE}")

    def _exit(self, lost: Sequence[HeldShard], error: DeviceFault) -> NoReturn:
        """End the process after recording the losses, so that no other process waits for its heartbeat to go stale."""
        log.critical("the device failed: %s; this process exits", error)
        self._claimer.stop()  # a claim under way could take what is returned now
        for shard in lost:
            self.shards.record_loss(shard, f"the device failed: {error}")
        self._uploader.stop(self.settings.drain_s)
        self.heartbeat.stop()
        os._exit(EXIT_DEVICE)
