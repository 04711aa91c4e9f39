"""Encodes and stores finished images in a few threads while the engine takes its next steps."""

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
from services.worker.held_shards import HeldShard, HeldShards

log = logging.getLogger("darkroom.uploader")

THREADS = 4
MAX_IMAGES = 256  # in memory; the engine waits when there are more
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0


class Uploader:
    """Stores images and settles them. While S3 or Postgres is unavailable it retries, and the engine waits for it."""

    def __init__(self, store: ObjectStore, shards: HeldShards) -> None:
        self.store, self.shards = store, shards
        self._slots = threading.Semaphore(MAX_IMAGES)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._hurry = threading.Event()

    def add(self, image: Developed[HeldShard], profile: str, tick: Callable[[], None]) -> None:
        """Accept an image. While MAX_IMAGES images are waiting, this waits too, and calls `tick` every second."""
        while not self._slots.acquire(timeout=1.0):
            tick()
        metrics.UPLOADS_UNDER_WAY.inc()
        self._pool.submit(self._upload, image, profile)

    def stop(self, within_s: float) -> None:
        """Return when every image is settled. After `within_s` seconds, unsettled shards return to the queue."""
        timer = threading.Timer(within_s, self._hurry.set)
        timer.start()
        self._pool.shutdown(wait=True)
        timer.cancel()

    def _upload(self, image: Developed[HeldShard], profile: str) -> None:
        try:
            self._retry_until_settled(image, profile)
        finally:
            self._slots.release()
            metrics.UPLOADS_UNDER_WAY.dec()

    def _retry_until_settled(self, image: Developed[HeldShard], profile: str) -> None:
        shard = image.owner
        index, job_id = image.spec.index, shard.lease.job_id
        body, pause = b"", FIRST_PAUSE_S
        while shard in self.shards:
            try:
                body = body or self._encode(image)
                with metrics.UPLOAD_SECONDS.time():
                    self._settle(image, body, profile)
                return
            except LeaseLost:
                self.shards.drop_lost(shard)
            except Exception as error:
                if not is_transient(error):
                    message = f"image {index} of job {job_id} could not be stored: {brief(error)}"
                    log.warning("%s", message, extra=logs.lease_fields(shard.lease))
                    self.shards.fail_attempt(shard, f"image {index} could not be stored: {brief(error)}")
                    return
                message = f"image {index} of job {job_id} is not stored yet: {brief(error)}; retrying"
                log.warning("%s", message, extra=logs.lease_fields(shard.lease))
                if self._hurry.wait(pause):
                    self.shards.return_to_queue(shard)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _encode(self, image: Developed[HeldShard]) -> bytes:
        image_format = image.owner.plan["format"]
        with metrics.ENCODE_SECONDS.labels(image_format).time():
            return encoding.encode_image(image.pixels, image_format)

    def _settle(self, image: Developed[HeldShard], body: bytes, profile: str) -> None:
        shard, spec = image.owner, image.spec
        image_format = shard.plan["format"]
        key = layout.image_key(shard.plan["output_prefix"], shard.lease.job_id, spec.index, image_format)
        stored = self.store.put_if_absent(key, body, content_type=f"image/{image_format}")
        output = Output(spec.index, spec.item, spec.seed, key, stored.sha256, stored.bytes, profile)
        self.shards.settle_image(shard, output)
