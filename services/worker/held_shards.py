"""The shards that a worker holds. Each ends once: its images are settled, it fails, or it returns to the queue.

Every write is one statement and a transaction of its own. A worker that freezes between two holds no lock.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import Engine as Database

from services.database.connections import autocommit, brief, describe
from services.job_queue import jobs, leases, outputs, stopping
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.outputs import Outcome, Output, Settling
from services.job_queue.plan import Plan
from services.job_queue.stopping import StopRequest
from services.job_requests.chains import Stage
from services.observability import logs, metrics
from services.storage.transient import is_transient

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
    """A leased shard. The rest is known once its job is read."""

    lease: Lease
    plan: Plan = field(init=False)
    manifest: Mapping[str, Any] = field(init=False)  # of the release
    unsettled: set[int] = field(init=False)  # indices
    stage: Stage | None = None  # of a chain
    revision: int = 1  # of the job
    storing: int = 0  # its images that the store has not accepted yet

    @property
    def is_intermediate(self) -> bool:
        """Whether its images are those of a stage of a chain that is not the last."""
        return self.stage is not None and not self.stage.is_last


class HeldShards:
    """The held shards. Every thread may call every method; if two threads end the same shard, the first one does it.

    on_removed: called when `take_removed` has something to return.
    """

    def __init__(self, database: Database, on_removed: Callable[[], None]) -> None:
        self.database, self._on_removed = autocommit(database), on_removed
        self._lock = threading.Lock()
        self._held: set[HeldShard] = set()
        self._removed: deque[HeldShard] = deque()
        for end in End:  # a series each from the start
            metrics.SHARDS_ENDED.labels(end)

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

    def settle(self, images: Mapping[HeldShard, Sequence[Output]]) -> set[HeldShard]:
        """Record images as stored or failed. The last image of a shard ends the shard.

        A shard whose lease was lost is dropped. Two threads must not settle images of one job at the same time.
        Images of one job wait for its row, up to a second. Of several jobs, those whose rows another transaction holds
        are left out: returns their shards.
        """
        settling = {
            shard: Settling(
                shard.lease, records, shard.unsettled <= {record.index for record in records}, shard.is_intermediate
            )
            for shard, records in images.items()
            if shard in self
        }
        if not settling:
            return set()
        found = self._settle(list(settling.values()))
        for shard, settled in settling.items():
            match found[shard.lease.id]:
                case Outcome.LOST:
                    self.drop_lost(shard)
                    continue
                case Outcome.LOCKED:
                    continue
            shard.unsettled.difference_update(record.index for record in settled.outputs)
            for record in settled.outputs:
                metrics.IMAGES.labels("failed" if record.error else "stored").inc()
            if settled.is_last:
                self._remove(shard, End.DONE)
        return {shard for shard in settling if found[shard.lease.id] == Outcome.LOCKED}

    def _settle(self, shards: list[Settling]) -> Mapping[int, Outcome]:
        """Settle in one statement, or in two with stages of chains. Returns what became of each shard, by its id."""
        staged = [one for one in shards if one.is_intermediate]
        others = [one for one in shards if not one.is_intermediate]
        waits = len({one.lease.job_id for one in shards}) == 1
        found: dict[int, Outcome] = {}
        with self.database.connect() as connection:
            if staged:
                found |= outputs.settle_stages(connection, staged, waits=waits)
            if others and not waits:
                found |= outputs.settle_jobs(connection, others)
            elif others:
                held = outputs.settle_images(connection, others)
                found |= {one.lease.id: Outcome.SETTLED if one.lease.id in held else Outcome.LOST for one in others}
        return found

    # -- other ends --------------------------------------------------------------------------------

    def fail_attempt(self, shard: HeldShard, error: str) -> None:
        """Count a failed attempt. After the last one the unsettled images fail."""
        self._end(shard, End.FAILED, lambda connection: jobs.fail_shard_attempt(connection, shard.lease, error))

    def reject(self, shard: HeldShard, message: str, error: Exception) -> bool:
        """Fail an attempt, unless S3 or this machine's disk is to blame: then the shard returns to the queue.

        Returns whether an attempt failed.
        """
        lease = shard.lease
        log.warning("work %d of job %s: %s", lease.id, lease.job_id, message, extra=logs.lease_fields(lease))
        if is_transient(error) or isinstance(error, OSError):
            self.return_to_queue(shard)
            return False
        self.fail_attempt(shard, message)
        return True

    def reject_unread(self, shard: HeldShard, error: Exception) -> None:
        """Fail an attempt of a shard whose items cannot be read, unless S3 is to blame.

        Then the shard lets others pass for a few seconds: its objects alone may be slow or broken.
        """
        message = f"its items cannot be read: {describe(error)}"
        if is_transient(error) or isinstance(error, OSError):
            log.warning("work %d: %s", shard.lease.id, message, extra=logs.lease_fields(shard.lease))
            self.postpone(shard, message)
        else:
            self.reject(shard, message, error)

    def record_loss(self, shard: HeldShard, error: str) -> None:
        """Record that a step with this shard's images failed, which counts as the loss of the process."""
        self._end(shard, End.CRASHED, lambda connection: jobs.lose_shard(connection, shard.lease, error))

    def return_to_queue(self, shard: HeldShard) -> None:
        """Release the lease, so that any process can claim the shard at once. This counts as no attempt."""
        self._end(shard, End.RETURNED, lambda connection: leases.release_lease(connection, shard.lease))

    def postpone(self, shard: HeldShard, error: str) -> None:
        """Release the lease, so that any process can claim the shard in a few seconds. This counts as no attempt."""
        self._end(shard, End.RETURNED, lambda connection: leases.postpone(connection, shard.lease, error))

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
            with self.database.connect() as connection:
                write(connection)
        except LeaseLost:
            pass
        except Exception as error:
            message = f"work {shard.lease.id} could not be ended: {brief(error)}; the heartbeat will release it"
            log.warning("%s", message, extra=logs.lease_fields(shard.lease))
