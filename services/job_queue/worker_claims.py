"""The state of a worker between its claims of shards: where to read on, which queue is next, and until when to stay.

Three rules, each with a bound:

- A claim reads the index from where the last one ended. Before that place lie the entries of claimed shards, which
  Postgres keeps for as long as any transaction is open that began before. Shards of lower ranks, such as returned
  ones, are found by a scan of the whole index. That is due after FULL_SCAN_S seconds, or FULL_SCAN_RATIO times as long
  as the last one took, and whenever nothing else is found.
- Claims prefer the loaded release for a slice of SLICE_RATIO times as long as it took to switch to it. So switching
  takes at most a part in SLICE_RATIO + 1 of the worker's time, up to LONGEST_SLICE_S. After a slice comes the shard
  whose turn it is. A shard of another release that is next in turn therefore waits for at most one slice.
- Queues share the worker equally, in network evaluations.
"""

import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from services.job_queue import tenants
from services.job_queue.claims import MANY, ClaimedShard, claim_sampling

FULL_SCAN_S, FULL_SCAN_RATIO = 1.0, 50
SLICE_RATIO, SHORTEST_SLICE_S, LONGEST_SLICE_S = 10, 1.0, 60.0


Statement = Callable[..., list[ClaimedShard]]


@dataclass
class Mark:
    """Where the last claim from an index ended, and when the whole index is due."""

    rank: float = -math.inf
    full_scan_due: float = -math.inf


class WorkerClaims:
    """Claims shards of some queues for one worker. now: a clock in seconds."""

    def __init__(self, queues: Sequence[str], now: Callable[[], float] = time.monotonic) -> None:
        self._queues, self._now = queues, now
        self._marks: defaultdict[tuple[str, str | None], Mark] = defaultdict(Mark)  # by queue and release
        self._clocks = dict.fromkeys(queues, -math.inf)  # the virtual time of each queue
        self._served = dict.fromkeys(queues, 0.0)  # network evaluations
        self._head_start = 0
        self._slice_s = SHORTEST_SLICE_S
        self._slice_ends = -math.inf

    def begin_slice(self, switch_s: float) -> None:
        """Prefer the release that was just loaded from now on. switch_s: seconds since its first shard was claimed."""
        self._slice_s = min(max(SHORTEST_SLICE_S, SLICE_RATIO * switch_s), LONGEST_SLICE_S)
        self._slice_ends = self._now() + self._slice_s

    def claim(
        self,
        connection: Connection,
        worker: uuid.UUID,
        *,
        release: str | None = None,
        count: int = 1,
        images: int = MANY,
        without: Sequence[str] = (),
        without_tenants: Sequence[str] = (),
    ) -> list[ClaimedShard]:
        """Claim the shard whose turn it is, or within the slice of the loaded release up to `count` shards of it.

        release: the digest of the loaded release. images, without, without_tenants: as for `claim_sampling`.
        """
        statement = partial(claim_sampling, connection, worker, without_tenants=without_tenants)
        if release is not None and self._now() < self._slice_ends:
            of_release = partial(statement, release=release, count=count, images=images)
            if shards := self._claim(connection, release, of_release):
                return shards
        shards = self._claim(connection, None, partial(statement, without=without))
        if shards and shards[0].pack_key == release:
            self._slice_ends = self._now() + self._slice_s
        return shards

    def _claim(self, connection: Connection, release: str | None, statement: Statement) -> list[ClaimedShard]:
        """Claim from the queue that was served least of those that have anything. The others save nothing up."""
        for queue in sorted(self._queues, key=self._served.__getitem__):
            in_queue = partial(statement, queues=[queue], clock=self._clocks[queue])
            if shards := self._read_on(connection, self._marks[queue, release], in_queue):
                if release is None:
                    self._clocks[queue] = shards[0].clock
                self._add_served(queue, sum(shard.cost for shard in shards))
                return shards
        return []

    def _read_on(self, connection: Connection, mark: Mark, statement: Statement) -> list[ClaimedShard]:
        """Claim from where the last claim ended, or from the whole index if that is due or nothing is found."""
        shards: list[ClaimedShard] = []
        began = self._now()
        if began < mark.full_scan_due:
            shards = statement(lowest_rank=mark.rank - self._head_start)
        if not shards:
            self._head_start = tenants.longest_head_start(connection)  # a shard that is planned now may be so far back
            shards = statement()
            took = self._now() - began
            mark.full_scan_due = began + took + max(FULL_SCAN_S, FULL_SCAN_RATIO * took)
        if shards:
            mark.rank = shards[0].rank
        return shards

    def _add_served(self, queue: str, cost: int) -> None:
        before = self._served[queue]
        for other, served in self._served.items():  # those that were served less had nothing to claim
            self._served[other] = max(served, before)
        self._served[queue] += cost
