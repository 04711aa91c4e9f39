"""Records finished images. Those that finish while a statement is under way are recorded together by the next one."""

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from services.database.connections import brief, describe
from services.job_queue.outputs import Output
from services.observability import logs
from services.process.threads import start_thread
from services.storage.transient import is_transient
from services.worker.held_shards import HeldShard, HeldShards

log = logging.getLogger("darkroom.settler")

THREADS = 2  # while one waits for a job whose row is locked, the other settles images of other jobs
MOST_TOGETHER = 512  # images of one statement
MOST_WAITING = 20_000  # images of one job; more wait only if its row is locked for minutes
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0

Image = tuple[HeldShard, Output]


class Again(Enum):
    """When images are tried again: after an error that passes, or by a statement of their own that waits for a lock."""

    AFTER_A_PAUSE = auto()
    ALONE = auto()


@dataclass
class WaitingImages:
    """A job's images that are to be recorded."""

    images: list[Image] = field(default_factory=list)
    due: float = 0.0  # not before: after an error a job waits while others continue
    pause_s: float = FIRST_PAUSE_S
    is_under_way: bool = False
    is_alone: bool = False  # its row was locked, so its next statement waits for that and settles nothing else


class Settler:
    """Settles images in a few threads, of each job in one of them at a time.

    One statement settles images of all jobs that have any. A job whose row another transaction has locked is left out
    and settled by the next statement alone, which waits for the row.
    """

    def __init__(self, shards: HeldShards) -> None:
        self.shards = shards
        self._jobs: dict[uuid.UUID, WaitingImages] = {}
        self._changed = threading.Condition()
        self._stopping = self._hurry = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        self._threads = [start_thread(self._run, f"settle-{i}") for i in range(THREADS)]

    def add(self, shard: HeldShard, output: Output) -> None:
        """Record that an image is stored or has failed, soon."""
        self.add_all([(shard, output)])

    def add_all(self, images: Sequence[Image]) -> None:
        """Record images that are stored or have failed, soon and as far as possible together."""
        full = set()
        with self._changed:
            for shard, output in images:
                job = self._jobs.setdefault(shard.lease.job_id, WaitingImages())
                job.images.append((shard, output))
                if len(job.images) > MOST_WAITING:
                    full.add(shard)
            self._changed.notify()
        for shard in full:
            self.shards.forget(shard)

    def hurry(self) -> None:
        """Try once more to record what waits. Shards for which that fails return to the queue."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Return when everything is recorded or returned to the queue."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            again = self._settle([image for images in taken.values() for image in images])
            with self._changed:
                for job_id, images in taken.items():
                    self._end_turn(job_id, [image for image in images if image[0] in again], again)
                self._changed.notify_all()

    def _take(self) -> dict[uuid.UUID, list[Image]] | None:
        """Return images of the jobs that have waited longest, or None when everything is recorded at the end."""
        with self._changed:
            while not (taken := self._take_due(time.monotonic())):
                if self._stopping and not self._jobs:
                    return None
                now = time.monotonic()
                due = [job.due - now for job in self._jobs.values() if not job.is_under_way]
                self._changed.wait(max(min(due), 0.001) if due else None)
            return taken

    def _take_due(self, now: float) -> dict[uuid.UUID, list[Image]]:
        taken: dict[uuid.UUID, list[Image]] = {}
        room = MOST_TOGETHER
        for job_id, job in list(self._jobs.items()):
            if job.is_under_way or (job.due > now and not self._hurry) or (job.is_alone and taken):
                continue
            job.is_under_way = True
            taken[job_id], job.images = job.images[:room], job.images[room:]
            self._jobs[job_id] = self._jobs.pop(job_id)  # to the end
            room -= len(taken[job_id])
            if job.is_alone or not room:
                break
        return taken

    def _end_turn(self, job_id: uuid.UUID, images: list[Image], again: Mapping[HeldShard, Again]) -> None:
        """Keep the images of a job that are to be tried again."""
        job = self._jobs[job_id]
        has_failed = any(again[shard] == Again.AFTER_A_PAUSE for shard, _ in images)
        job.is_under_way, job.is_alone = False, bool(images) and not has_failed
        job.images[:0] = images
        job.due = time.monotonic() + job.pause_s if has_failed else 0.0
        job.pause_s = min(2 * job.pause_s, LONGEST_PAUSE_S) if has_failed else FIRST_PAUSE_S
        if not job.images:
            del self._jobs[job_id]

    def _settle(self, images: list[Image]) -> dict[HeldShard, Again]:
        """Record images. Returns the shards to try again. Whatever is wrong with an image fails its shard."""
        by_shard: dict[HeldShard, list[Output]] = {}
        for shard, output in images:
            by_shard.setdefault(shard, []).append(output)
        try:
            return dict.fromkeys(self.shards.settle(by_shard), Again.ALONE)
        except Exception as error:
            lease = images[0][0].lease
            message = f"{len(images)} images, the first one of job {lease.job_id}, are not recorded yet: {brief(error)}"
            log.warning("%s", message, extra=logs.lease_fields(lease))
            if is_transient(error) and not self._hurry:
                return dict.fromkeys(by_shard, Again.AFTER_A_PAUSE)
            if is_transient(error):
                for shard in by_shard:
                    self.shards.return_to_queue(shard)
            elif len(by_shard) == 1:
                for shard in by_shard:
                    self.shards.fail_attempt(shard, f"its images could not be recorded: {describe(error)}")
            else:  # one of the shards is to blame
                again = [self._settle([(shard, record) for record in records]) for shard, records in by_shard.items()]
                return {shard: when for part in again for shard, when in part.items()}
            return {}
