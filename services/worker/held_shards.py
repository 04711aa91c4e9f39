"""The shards that a worker holds: each ends once, by its images being settled or by being given back."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.job_queue import jobs, leases, maintenance, outputs
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.maintenance import StopRequest
from services.job_queue.outputs import Output
from services.job_queue.plan import Plan
from services.observability import logs, metrics

log = logging.getLogger("darkroom.holdings")


@dataclass(eq=False)
class HeldShard:
    """A leased shard, the items of its job that it needs, and which of its images are not settled yet."""

    lease: Lease
    plan: Plan
    manifest: Mapping[str, Any]
    open: set[int]
    settling: threading.Lock = field(default_factory=threading.Lock)


class Holdings:
    """Held shards. Safe to use from several threads; of two that end a shard, the second does nothing.

    dropped: told of each shard whose images need no more work.
    """

    def __init__(self, database: Database, dropped: Callable[[HeldShard], None]) -> None:
        self.database, self._dropped = database, dropped
        self._lock = threading.Lock()
        self._held: set[HeldShard] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, shard: object) -> bool:
        return shard in self._held

    def tokens(self) -> list[int]:
        """Of the leases held now."""
        return [shard.lease.token for shard in self.all()]

    def all(self) -> list[HeldShard]:
        """Those held now."""
        with self._lock:
            return list(self._held)

    def add(self, shard: HeldShard) -> None:
        """Hold a shard that was just claimed."""
        with self._lock:
            self._held.add(shard)
            metrics.SHARDS_HELD.set(len(self._held))

    # -- how a shard ends --------------------------------------------------------------------------

    def settle(self, shard: HeldShard, record: Output) -> None:
        """One image is stored, or has failed; the last one ends its shard. Raises LeaseLost."""
        with shard.settling:  # of two last images at the same moment the second one is the last
            last = shard.open <= {record.index}
            with self.database.begin() as connection:
                outputs.settle_images(connection, shard.lease, [record])
                if last:
                    jobs.finish_shard(connection, shard.lease)
            shard.open.discard(record.index)
        metrics.IMAGES.labels("failed" if record.error else "stored").inc()
        if last:
            self._forget(shard, "done")

    def finish(self, shard: HeldShard) -> None:
        """All images are settled. Raises LeaseLost."""
        with self.database.begin() as connection:
            jobs.finish_shard(connection, shard.lease)
        self._forget(shard, "done")

    def give_up(self, shard: HeldShard, error: str) -> None:
        """An attempt failed; when it was the last, the images that are still open are settled as failed."""

        def write(connection: Connection) -> None:
            if not leases.fail_attempt(connection, shard.lease, error):
                jobs.fail_shard(connection, shard.lease, error)

        self._end(shard, "failed", write)

    def suspect(self, shard: HeldShard, error: str) -> None:
        """The process failed at a step that this shard had part in: counted like the loss of the process."""

        def write(connection: Connection) -> None:
            leases.hold(connection, shard.lease)
            if leases.record_loss(connection, shard.lease.id, error):
                jobs.fail_shard(connection, shard.lease, error)

        self._end(shard, "crashed", write)

    def give_back(self, shard: HeldShard) -> None:
        """Not now: ready again for any process, no attempt spent."""
        self._end(shard, "given_back", lambda connection: leases.release_lease(connection, shard.lease))

    def stop(self, shard: HeldShard, request: StopRequest) -> None:
        """Its job is to stop."""
        told = f"work {shard.lease.id} of job {shard.lease.job_id} is stopped: {request.reason}"
        log.info("%s", told, extra=logs.lease_fields(shard.lease))
        self._end(shard, "stopped", lambda connection: maintenance.stop_shard(connection, shard.lease, request))

    def lost(self, shard: HeldShard) -> None:
        """Somebody else has it: whatever is made of it here is dropped."""
        if self._forget(shard, "lost"):
            told = f"lease lost: work {shard.lease.id} of job {shard.lease.job_id}; its images are dropped"
            log.warning("%s", told, extra=logs.lease_fields(shard.lease))

    def forget(self, shard: HeldShard) -> None:
        """Work on it no more; the heartbeat will give it back."""
        self._forget(shard, "given_back")

    def _forget(self, shard: HeldShard, end: str) -> bool:
        """Returns False if it has ended already."""
        with self._lock:
            held = shard in self._held
            self._held.discard(shard)
            metrics.SHARDS_HELD.set(len(self._held))
        if held:
            metrics.SHARDS_ENDED.labels(end).inc()
            log.info(
                "work %d of job %s: %s", shard.lease.id, shard.lease.job_id, end, extra=logs.lease_fields(shard.lease)
            )
            self._dropped(shard)
        return held

    def _end(self, shard: HeldShard, end: str, write: Callable[[Connection], None]) -> None:
        if not self._forget(shard, end):
            return
        try:
            with self.database.begin() as connection:
                write(connection)
        except LeaseLost:
            pass
        except DBAPIError as problem:
            # The heartbeat gives back what this process leases and has forgotten.
            told = f"database: {brief(problem)}; work {shard.lease.id} will be given back"
            log.warning("%s", told, extra=logs.lease_fields(shard.lease))
