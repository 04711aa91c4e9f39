"""Finished images on their way to S3: encoded and stored by a few threads while the next steps run."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from services import outputs
from services.database import brief
from services.engine import Developed
from services.holdings import HeldShard, Holdings
from services.job_queue.jobs import OutputRecord
from services.job_queue.leases import LeaseLost
from services.object_store import ObjectStore

log = logging.getLogger("darkroom.uploader")

THREADS = 4
UNDER_WAY = 256  # images in memory at most; the engine waits beyond that


class Uploader:
    """Stores images and settles them."""

    def __init__(self, store: ObjectStore, holdings: Holdings) -> None:
        self.store, self.holdings = store, holdings
        self._slots = threading.Semaphore(UNDER_WAY)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")

    def add(self, image: Developed, profile: str) -> None:
        """Take an image; waits while too many are under way."""
        self._slots.acquire()
        self._pool.submit(self._store, image, profile)

    def stop(self) -> None:
        """Return when all are settled."""
        self._pool.shutdown(wait=True)

    def _store(self, image: Developed, profile: str) -> None:
        shard: HeldShard = image.owner
        spec = image.spec
        try:
            if shard not in self.holdings:
                return
            body = outputs.encode(image.pixels, shard.plan["format"])
            key = outputs.image_key(shard.plan, shard.lease.job_id, spec.index)
            stored = self.store.put_if_absent(key, body, content_type=f"image/{shard.plan['format']}")
            record = OutputRecord(spec.index, spec.item, spec.seed, key, stored.sha256, stored.bytes, profile)
            self.holdings.settle(shard, record)
        except LeaseLost:
            self.holdings.lost(shard)
        except Exception as error:
            log.warning("image %d of job %s could not be stored: %s", spec.index, shard.lease.job_id, brief(error))
            self.holdings.give_up(shard, f"image {spec.index} could not be stored: {brief(error)}")
        finally:
            self._slots.release()
