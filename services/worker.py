"""A worker: claims sampling work, develops its images, stores them, settles the work; drains when told to stop.

One thread runs the engine, a small pool encodes and uploads, one thread keeps the heartbeat.
"""

import logging
import threading
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine as Database
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services import job_queue, outputs, registry
from services.database import brief
from services.engine import Developed, Engine
from services.job_queue import Lease, LeaseLost, OutputRecord
from services.job_request import image_spec
from services.object_store import ObjectStore
from services.settings import Settings

log = logging.getLogger("darkroom.worker")

UPLOAD_THREADS = 4
UPLOADS_UNDER_WAY = 256  # developed images in memory at most; the engine waits beyond that
PAUSE_AFTER_ERROR_S = 2.0


@dataclass(eq=False)
class HeldShard:
    """A leased shard and which of its images are not settled yet."""

    lease: Lease
    plan: dict[str, Any]
    manifest: dict[str, Any]
    open: set[int]


class Worker:
    """The life of one worker process. `start` returns at once; `stop` drains and returns when all is settled."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore) -> None:
        self.settings, self.database, self.store = settings, database, store
        self.id = uuid.UUID(int=0)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # of `_held` and of every shard's `open`
        self._held: set[HeldShard] = set()
        self._dropped: deque[HeldShard] = deque()  # the engine belongs to its thread, which removes these
        self._waiting: HeldShard | None = None  # for another release, until the loaded one has nothing left
        self._engine: Engine | None = None
        self._upload_slots = threading.Semaphore(UPLOADS_UNDER_WAY)
        self._pool = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._pulse = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Register and begin to claim."""
        with self.database.begin() as connection:
            self.id = job_queue.register(connection, "worker")
        log.info("worker %s serves queues %s", self.id, ", ".join(self.settings.queues))
        self._thread.start()
        self._pulse.start()

    def wake(self) -> None:
        """A hint: there may be work."""
        self._wake.set()

    def stop(self) -> None:
        """Claim no more, finish what fits the drain time, give the rest back without spending an attempt."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self._pool.shutdown(wait=True)
        self._stopped.set()
        self._pulse.join()
        try:
            with self.database.begin() as connection:
                job_queue.retire(connection, self.id)
        except DBAPIError as error:
            log.warning(
                "could not retire (%s); the leases will be taken back when the heartbeat is stale", brief(error)
            )
        log.info("worker %s stopped", self.id)

    # -- the engine thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._remove_dropped()
                self._claim()
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

    def _advance(self, engine: Engine) -> None:
        try:
            developed = engine.step()
        except Exception as error:  # a failing step fails an attempt of the work in it, never the process
            log.exception("a step failed")
            for shard in list(self._held):
                if shard is not self._waiting:
                    self._give_up(shard, f"{type(error).__name__}: {error}")
            self._remove_dropped()
            return
        for image in developed:
            self._upload_slots.acquire()
            self._pool.submit(self._store, engine.profile, image)

    def _remove_dropped(self) -> None:
        while self._dropped:
            shard = self._dropped.popleft()
            if self._engine is not None:
                self._engine.remove(shard)

    def _claim(self) -> None:
        """Lease work while the next step has room for it."""
        while self._waiting is None and (self._engine is None or self._engine.free_rows > 0):
            with self.database.begin() as connection:
                leases = job_queue.claim(connection, self.id, sampling=True, queues=self.settings.queues)
                if not leases:
                    return
                (lease,) = leases
                job_queue.begin(connection, lease)
                row = connection.execute(
                    text("SELECT jobs.plan, releases.manifest FROM jobs JOIN releases ON releases.id = release_id "
                         "WHERE jobs.id = :id"),
                    {"id": lease.job_id},
                ).one()  # fmt: skip
                settled = job_queue.recorded(connection, lease)
            shard = HeldShard(lease, row.plan, row.manifest, set(range(lease.start, lease.stop)) - settled)
            with self._lock:
                self._held.add(shard)
            if not shard.open:
                self._settle(shard)
            elif self._engine is None or self._engine.release.digest != lease.pack_key:
                self._waiting = shard
            else:
                self._begin(self._engine, shard)
        # One release at a time: work of another waits until the loaded one has nothing left to do.
        if self._waiting is not None and (self._engine is None or not self._engine.busy):
            shard, self._waiting = self._waiting, None
            try:
                self._engine = self._load(shard)
            except Exception as error:
                log.exception("release %s cannot be loaded", shard.lease.pack_key)
                self._give_up(shard, f"the release cannot be loaded: {error}")
                return
            self._begin(self._engine, shard)

    def _load(self, shard: HeldShard) -> Engine:
        began = time.monotonic()
        folder = registry.fetch(self.store, shard.manifest, self.settings.cache_dir)
        self._engine = None  # the old model's memory goes before the new one's is taken
        engine = Engine(folder, rows=self.settings.rows, device=self.settings.device)
        with self.database.begin() as connection:
            job_queue.heartbeat(connection, self.id, engine.profile)
        log.info("loaded %s in %.1f s; profile %s", engine.release.name, time.monotonic() - began, engine.profile)
        return engine

    def _begin(self, engine: Engine, shard: HeldShard) -> None:
        try:
            for index in sorted(shard.open):
                engine.add(shard, image_spec(shard.plan, engine.condition_names, index))
        except ValueError as error:  # a condition that its schema permits and the model cannot use
            self._give_up(shard, f"image {index}: {error}")

    # -- storing, on the pool's threads ----------------------------------------------------------

    def _store(self, profile: str, image: Developed) -> None:
        """Encode and upload one image and settle it; the last one settles its shard."""
        shard, spec = image.owner, image.spec
        try:
            body = outputs.encode(image.pixels, shard.plan["format"])
            key = outputs.image_key(shard.plan, shard.lease.job_id, spec.index)
            stored = self.store.put_if_absent(key, body, content_type=f"image/{shard.plan['format']}")
            record = OutputRecord(spec.index, spec.item, spec.seed, key, stored.sha256, stored.bytes, profile)
            with self.database.begin() as connection:
                job_queue.record(connection, shard.lease, [record])
            with self._lock:
                shard.open.discard(spec.index)
                last = not shard.open
            if last:
                self._settle(shard)
        except LeaseLost as error:
            if self._forget(shard):
                log.warning("lease lost: %s; its images are dropped", error)
        except Exception as error:
            log.warning("image %d of job %s could not be stored: %s", spec.index, shard.lease.job_id, brief(error))
            self._give_up(shard, f"image {spec.index} could not be stored: {brief(error)}")
        finally:
            self._upload_slots.release()

    def _settle(self, shard: HeldShard) -> None:
        with self.database.begin() as connection:
            job_queue.finish_shard(connection, shard.lease)
        with self._lock:
            self._held.discard(shard)

    def _give_up(self, shard: HeldShard, error: str) -> None:
        """An attempt failed; when it was the last, the images that are still open are settled as failed."""
        if not self._forget(shard):
            return
        try:
            with self.database.begin() as connection:
                if not job_queue.retry_later(connection, shard.lease, error):
                    job_queue.fail_images(connection, shard.lease, error)
        except LeaseLost:
            pass
        except DBAPIError as problem:
            log.warning("database: %s; work %d is left to be taken back", brief(problem), shard.lease.id)

    def _forget(self, shard: HeldShard) -> bool:
        """Stop working on a shard. Returns False if that happened already."""
        with self._lock:
            held = shard in self._held
            self._held.discard(shard)
        self._dropped.append(shard)
        return held

    # -- the heartbeat, and the end ----------------------------------------------------------------

    def _beat(self) -> None:
        while not self._stopped.wait(self.settings.heartbeat_s):
            try:
                with self.database.begin() as connection:
                    job_queue.heartbeat(connection, self.id)
            except DBAPIError as error:
                log.warning("heartbeat: %s", brief(error))

    def _drain(self) -> None:
        deadline = time.monotonic() + self.settings.drain_s
        while self._engine is not None and self._engine.busy and time.monotonic() < deadline:
            self._remove_dropped()
            self._advance(self._engine)
        if self._engine is not None and self._engine.busy:
            log.info("the drain time is over; unfinished images are given back")
