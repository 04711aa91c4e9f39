"""Finished images on their way to S3: encoded and stored by a few threads while the next steps run."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from services.database.connections import brief
from services.job_queue.leases import LeaseLost
from services.job_queue.outputs import Output
from services.observability import logs, metrics
from services.storage import layout
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from services.worker import encoding
from services.worker.engine import Developed
from services.worker.held_shards import HeldShard, Holdings

log = logging.getLogger("darkroom.uploader")

THREADS = 4
UNDER_WAY = 256  # images in memory at most; the engine waits beyond that
LONGEST_PAUSE_S = 10.0


class Uploader:
    """Stores images and settles them. While S3 or Postgres is away it waits for them, and the engine for it."""

    def __init__(self, store: ObjectStore, holdings: Holdings) -> None:
        self.store, self.holdings = store, holdings
        self._slots = threading.Semaphore(UNDER_WAY)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._hurry = threading.Event()

    def add(self, image: Developed, profile: str, tick: Callable[[], None]) -> None:
        """Take an image; waits while too many are under way, and ticks."""
        while not self._slots.acquire(timeout=1.0):
            tick()
        metrics.UPLOADS_UNDER_WAY.inc()
        self._pool.submit(self._store, image, profile)

    def stop(self, within_s: float) -> None:
        """Return when all are settled; what cannot be settled in time is given back."""
        timer = threading.Timer(within_s, self._hurry.set)
        timer.start()
        self._pool.shutdown(wait=True)
        timer.cancel()

    def _store(self, image: Developed, profile: str) -> None:
        try:
            self._store_patiently(image, profile)
        finally:
            self._slots.release()
            metrics.UPLOADS_UNDER_WAY.dec()

    def _store_patiently(self, image: Developed, profile: str) -> None:
        shard: HeldShard = image.owner
        index, job_id = image.spec.index, shard.lease.job_id
        body, pause = b"", 0.5
        while shard in self.holdings:
            try:
                body = body or self._encoded(image)
                with metrics.UPLOAD_SECONDS.time():
                    self._settle(image, body, profile)
                return
            except LeaseLost:
                self.holdings.lost(shard)
            except Exception as error:
                if not is_transient(error):
                    told = f"image {index} of job {job_id} could not be stored: {brief(error)}"
                    log.warning("%s", told, extra=logs.lease_fields(shard.lease))
                    self.holdings.give_up(shard, f"image {index} could not be stored: {brief(error)}")
                    return
                told = f"image {index} of job {job_id} waits to be stored: {brief(error)}"
                log.warning("%s", told, extra=logs.lease_fields(shard.lease))
                if self._hurry.wait(pause):
                    self.holdings.give_back(shard)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _encoded(self, image: Developed) -> bytes:
        file_format = image.owner.plan["format"]
        with metrics.ENCODE_SECONDS.labels(file_format).time():
            return encoding.encode_image(image.pixels, file_format)

    def _settle(self, image: Developed, body: bytes, profile: str) -> None:
        shard: HeldShard = image.owner
        spec, file_format = image.spec, shard.plan["format"]
        key = layout.image_key(shard.plan["output_prefix"], shard.lease.job_id, spec.index, file_format)
        stored = self.store.put_if_absent(key, body, content_type=f"image/{file_format}")
        record = Output(spec.index, spec.item, spec.seed, key, stored.sha256, stored.bytes, profile)
        self.holdings.settle(shard, record)
