"""Claims shards and reads what sampling them needs, each in statements of its own."""

import logging
from collections.abc import Sequence

from sqlalchemy import Engine as Database

from services.database.connections import autocommit
from services.job_queue import jobs
from services.job_queue.worker_claims import WorkerClaims
from services.observability import logs, metrics
from services.process.heartbeat import Heartbeat
from services.worker.held_shards import HeldShard, HeldShards

log = logging.getLogger("darkroom.worker")


class Claimer:
    """Claims shards of some queues for the process of `heartbeat`."""

    def __init__(self, database: Database, shards: HeldShards, heartbeat: Heartbeat, queues: Sequence[str]) -> None:
        self.database, self.shards = autocommit(database), shards
        self.heartbeat, self.claims = heartbeat, WorkerClaims(queues)

    def claim(self, release: str | None, without: Sequence[str]) -> HeldShard | None:
        """Claim and hold the shard whose turn it is, preferably of the loaded `release` (its digest).

        without: digests of releases of which nothing is claimed.
        """
        with self.database.connect() as connection:
            found = self.claims.claim(connection, self.heartbeat.id, release=release, without=without)
        if not found:
            return None
        shard = HeldShard(found[0])
        self.shards.add(shard)
        return shard

    def read(self, shard: HeldShard) -> None:
        """Record that sampling of the shard's job starts, and read its plan, manifest and unsettled images."""
        lease = shard.lease
        with self.database.connect() as connection:
            job = jobs.begin_shard(connection, lease)
        shard.plan, shard.manifest = job.plan, job.manifest
        shard.unsettled = set(range(lease.start, lease.stop)).difference(job.settled)
        log.info("work %d of job %s starts", lease.id, lease.job_id, extra=logs.lease_fields(lease))
        if job.waited is not None:
            metrics.PICK_UP_SECONDS.labels(lease.queue).observe(job.waited)
