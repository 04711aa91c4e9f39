"""The shards that a worker holds. Each ends once: its images are settled, it fails, or it returns to the queue."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.job_queue import jobs, leases, outputs, stopping
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.outputs import Output
from services.job_queue.plan import Plan
from services.job_queue.stopping import StopRequest
from services.observability import logs, metrics

log = logging.getLogger("darkroom.shards")


class End(StrEnum):
    """How a held shard ended: the label of the metric."""

    DONE = "done"
    FAILED = "failed"
    CRASHED = "crashed"
    RETURNED = "given_back"
    STOPPED = "stopped"
    LOST = "lost"


@dataclass(eq=False)
class HeldShard:
    """A leased shard and its unsettled images."""

    lease: Lease
    plan: Plan
    manifest: Mapping[str, Any]  # of the release
    unsettled: set[int]  # indices
    settling: threading.Lock = field(default_factory=threading.Lock)


class HeldShards:
    """The held shards. Every thread may call every method; if two threads end the same shard, the first one does it.

    on_removed: called when `take_removed` has something to return.
    """

    def __init__(self, database: Database, on_removed: Callable[[], None]) -> None:
        self.database, self._on_removed = database, on_removed
        self._lock = threading.Lock()
        self._held: set[HeldShard] = set()
        self._removed: deque[HeldShard] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, shard: object) -> bool:
        return shard in self._held

    def all(self) -> list[HeldShard]:
        """Return the shards that are held now."""
        with self._lock:
            return list(self._held)

    def tokens(self) -> list[int]:
        """Return the fencing tokens of the leases that are held now."""
        return [shard.lease.token for shard in self.all()]

    def add(self, shard: HeldShard) -> None:
        """Hold a shard that was just claimed."""
        with self._lock:
            self._held.add(shard)
            metrics.LEASES_HELD.set(len(self._held))

    def take_removed(self) -> Iterator[HeldShard]:
        """Yield each shard that has ended, once: the thread that owns the engine removes its images there."""
        while self._removed:
            yield self._removed.popleft()

    # -- settling ----------------------------------------------------------------------------------

    def settle_image(self, shard: HeldShard, output: Output) -> None:
        """Record that an image is stored or has failed. The last image ends its shard. Raises LeaseLost."""
        with shard.settling:  # if two threads settle the last two images, the second one ends the shard
            is_last = shard.unsettled <= {output.index}
            with self.database.begin() as connection:
                outputs.settle_images(connection, shard.lease, [output])
                if is_last:
                    jobs.finish_shard(connection, shard.lease)
            shard.unsettled.discard(output.index)
        metrics.IMAGES.labels("failed" if output.error else "stored").inc()
        if is_last:
            self._remove(shard, End.DONE)

    def finish(self, shard: HeldShard) -> None:
        """End a shard whose images were all settled before. Raises LeaseLost."""
        with self.database.begin() as connection:
            jobs.finish_shard(connection, shard.lease)
        self._remove(shard, End.DONE)

    @contextmanager
    def dropping_on_error(self, shard: HeldShard) -> Iterator[None]:
        """Drop the shard if its lease is lost within the block, or if the database fails. Raises DBAPIError."""
        try:
            yield
        except LeaseLost:
            self.drop_lost(shard)
        except DBAPIError:
            self.forget(shard)
            raise

    # -- other ends --------------------------------------------------------------------------------

    def fail_attempt(self, shard: HeldShard, error: str) -> None:
        """Count a failed attempt. After the last one the unsettled images fail."""

        def write(connection: Connection) -> None:
            if not leases.fail_attempt(connection, shard.lease, error):
                jobs.fail_shard(connection, shard.lease, error)

        self._end(shard, End.FAILED, write)

    def record_loss(self, shard: HeldShard, error: str) -> None:
        """Record that a step with this shard's images failed, which counts as the loss of the process."""

        def write(connection: Connection) -> None:
            leases.hold(connection, shard.lease)
            if leases.record_loss(connection, shard.lease.id, error):
                jobs.fail_shard(connection, shard.lease, error)

        self._end(shard, End.CRASHED, write)

    def return_to_queue(self, shard: HeldShard) -> None:
        """Release the lease, so that any process can claim the shard at once. This counts as no attempt."""
        self._end(shard, End.RETURNED, lambda connection: leases.release_lease(connection, shard.lease))

    def stop(self, shard: HeldShard, request: StopRequest) -> None:
        """End a shard whose job must stop."""
        lease = shard.lease
        message = f"work {lease.id} of job {lease.job_id} is stopped: {request.reason}"
        log.info("%s", message, extra=logs.lease_fields(lease))
        self._end(shard, End.STOPPED, lambda connection: stopping.stop_shard(connection, lease, request))

    def drop_lost(self, shard: HeldShard) -> None:
        """Drop a shard whose lease was lost. Its images here are discarded."""
        if self._remove(shard, End.LOST):
            message = f"lease lost: work {shard.lease.id} of job {shard.lease.job_id}; its images are discarded"
            log.warning("%s", message, extra=logs.lease_fields(shard.lease))

    def forget(self, shard: HeldShard) -> None:
        """Stop working on a shard; the heartbeat then releases its lease."""
        self._remove(shard, End.RETURNED)

    def _remove(self, shard: HeldShard, end: End) -> bool:
        """Return False if the shard has already ended."""
        with self._lock:
            held = shard in self._held
            self._held.discard(shard)
            metrics.LEASES_HELD.set(len(self._held))
        if held:
            lease = shard.lease
            metrics.SHARDS_ENDED.labels(end).inc()
            log.info("work %d of job %s: %s", lease.id, lease.job_id, end, extra=logs.lease_fields(lease))
            self._removed.append(shard)
            self._on_removed()
        return held

    def _end(self, shard: HeldShard, end: End, write: Callable[[Connection], None]) -> None:
        if not self._remove(shard, end):
            return
        try:
            with self.database.begin() as connection:
                write(connection)
        except LeaseLost:
            pass
        except DBAPIError as error:
            message = f"database: {brief(error)}; the heartbeat will release work {shard.lease.id}"
            log.warning("%s", message, extra=logs.lease_fields(shard.lease))
