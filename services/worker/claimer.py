"""Claims shards and reads what sampling them needs, in a thread of its own, while the engine takes its steps."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Engine as Database

from services.database.connections import autocommit
from services.job_queue import jobs
from services.job_queue.jobs import SamplingJob
from services.job_queue.worker_claims import WorkerClaims
from services.job_requests.chains import Stage
from services.observability import logs, metrics
from services.process.heartbeat import Heartbeat
from services.settings import Settings
from services.storage.transient import is_transient
from services.worker.engine import Engine
from services.worker.held_shards import HeldShard, HeldShards

log = logging.getLogger("darkroom.worker")

MOST_SHARDS = 64  # of one claim
LOOK_RATIO = 50  # a claim that found nothing is repeated after so many times as long as it took
LONGEST_LOOK_S = 1.0
CLAIM_AHEAD_S = 0.05  # a claim, and reading what it claims, may take so long without leaving rows unused
MOST_STEPS_AHEAD = 16
STEP_WEIGHT = 0.1  # of the last step in the average


@dataclass(frozen=True)
class Claimed:
    """A shard that was claimed. error: why its job cannot be read."""

    shard: HeldShard
    error: Exception | None = None


class Claimer:
    """Claims shards of some queues for the process of `heartbeat`, one claim at a time.

    One thread alone may call the methods; every thread may call `announce`. on_ready: called in another thread when a
    claim has ended.
    """

    def __init__(
        self,
        database: Database,
        shards: HeldShards,
        heartbeat: Heartbeat,
        settings: Settings,
        on_ready: Callable[[], None],
    ) -> None:
        self.database, self.shards = autocommit(database), shards
        self.heartbeat, self.claims = heartbeat, WorkerClaims(settings.queues)
        self._rows, self._step_s = settings.rows, 0.0  # the average of steps
        self._on_ready = on_ready
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="claim")
        self._claim: Future[list[Claimed]] | None = None
        self._look_at = -math.inf  # when to claim again after a claim that found nothing
        self._is_announced = False  # since the last claim began

    @property
    def busy(self) -> bool:
        """Whether a claim is under way, or its shards wait to be taken."""
        return self._claim is not None

    def announce(self) -> None:
        """Let the next claim begin at once: there may be work."""
        self._is_announced = True

    def note_step(self, seconds: float) -> None:
        """Note how long a step of the engine took."""
        self._step_s += STEP_WEIGHT * (seconds - self._step_s)

    def start(
        self, engine: Engine[HeldShard] | None, fetching: int, without: Sequence[str], without_tenants: Sequence[str]
    ) -> None:
        """Start to claim and hold shards whose turn it is, preferably of the engine's release, if it has room for them.

        Nothing starts while a claim is under way, nor soon after one that found nothing unless work was announced.
        fetching: images that are not in the engine yet. without, without_tenants: digests of releases and names of
        tenants of which nothing is claimed.
        """
        if self.busy or not (self._is_announced or time.monotonic() >= self._look_at):
            return
        if (images := self._room(engine) - fetching) > 0:
            release = engine.release.digest if engine is not None else None
            self._claim = self._pool.submit(self._run, release, without, without_tenants, images)
            self._claim.add_done_callback(lambda _: self._on_ready())

    def take(self) -> list[Claimed]:
        """Return what the last claim has found. Raises what it raised."""
        if self._claim is None or not self._claim.done():
            return []
        claim, self._claim = self._claim, None
        return claim.result()

    def stop(self) -> None:
        """Return when no claim is under way. Its shards are released with the process's other leases."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _room(self, engine: Engine[HeldShard] | None) -> int:
        """Return for how many images there will be room when a claim that begins now has ended."""
        if engine is None:
            return self._rows
        return engine.room_after(min(math.ceil(CLAIM_AHEAD_S / max(self._step_s, 1e-4)), MOST_STEPS_AHEAD))

    def _run(
        self, release: str | None, without: Sequence[str], without_tenants: Sequence[str], images: int
    ) -> list[Claimed]:
        began = time.monotonic()
        self._is_announced = False
        with self.database.connect() as connection:
            found = self.claims.claim(
                connection, self.heartbeat.id, release=release, without=without, without_tenants=without_tenants,
                count=MOST_SHARDS, images=images,
            )  # fmt: skip
        now = time.monotonic()
        self._look_at = now if found else now + min(LOOK_RATIO * (now - began), LONGEST_LOOK_S)
        shards = [HeldShard(lease) for lease in found]
        for shard in shards:
            self.shards.add(shard)
        try:
            return self._read(shards) if shards else []
        except Exception as error:  # a bug; each shard that is held must come to an end
            return [Claimed(shard, error) for shard in shards]

    def _read(self, shards: Sequence[HeldShard]) -> list[Claimed]:
        """Record that sampling of the shards' jobs starts, and read their plans, manifests and unsettled images."""
        try:
            with self.database.connect() as connection:
                found = jobs.begin_shards(connection, [shard.lease for shard in shards])
        except Exception as error:
            if len(shards) == 1 or is_transient(error):
                return [Claimed(shard, error) for shard in shards]
            return [claimed for shard in shards for claimed in self._read([shard])]  # one of them is to blame
        for shard, job in zip(shards, found, strict=True):
            self._note(shard, job)
        return [Claimed(shard) for shard in shards]

    def _note(self, shard: HeldShard, job: SamplingJob) -> None:
        lease = shard.lease
        shard.plan, shard.manifest, shard.revision = job.plan, job.manifest, job.revision
        if lease.stage is not None:
            shard.stage = Stage(job.plan, lease.stage, job.inputs)
        shard.unsettled = set(range(lease.start, lease.stop)).difference(job.settled)
        log.info("work %d of job %s starts", lease.id, lease.job_id, extra=logs.lease_fields(lease))
        if job.waited is not None:
            metrics.PICK_UP_SECONDS.labels(lease.queue).observe(job.waited)
