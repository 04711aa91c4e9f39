"""Records finished images. Those that finish while a statement is under way are recorded together by the next one."""

import logging
import threading
import time
import uuid
from dataclasses import dataclass, field

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


@dataclass
class WaitingImages:
    """A job's images that are to be recorded."""

    images: list[Image] = field(default_factory=list)
    due: float = 0.0  # not before: after an error a job waits while others go on
    pause_s: float = FIRST_PAUSE_S
    is_under_way: bool = False


class Settler:
    """Settles images in a few threads, of each job in one of them at a time."""

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
        with self._changed:
            job = self._jobs.setdefault(shard.lease.job_id, WaitingImages())
            job.images.append((shard, output))
            has_room = len(job.images) <= MOST_WAITING
            self._changed.notify()
        if not has_room:
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
        while (found := self._take()) is not None:
            job_id, images = found
            failed = self._settle(images)
            with self._changed:
                job = self._jobs[job_id]
                job.is_under_way = False
                job.images[:0] = failed
                job.due = time.monotonic() + job.pause_s if failed else 0.0
                job.pause_s = min(2 * job.pause_s, LONGEST_PAUSE_S) if failed else FIRST_PAUSE_S
                if not job.images:
                    del self._jobs[job_id]
                self._changed.notify_all()

    def _take(self) -> tuple[uuid.UUID, list[Image]] | None:
        """Return the images of the job that has waited longest, or None when everything is recorded at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                for job_id, job in self._jobs.items():
                    if not job.is_under_way and (job.due <= now or self._hurry):
                        job.is_under_way = True
                        images, job.images = job.images[:MOST_TOGETHER], job.images[MOST_TOGETHER:]
                        self._jobs[job_id] = self._jobs.pop(job_id)  # to the end
                        return job_id, images
                if self._stopping and not self._jobs:
                    return None
                due = [job.due - now for job in self._jobs.values() if not job.is_under_way]
                self._changed.wait(max(min(due), 0.001) if due else None)

    def _settle(self, images: list[Image]) -> list[Image]:
        """Record images of one job. Returns those to try again. Whatever is wrong with an image fails its shard."""
        by_shard: dict[HeldShard, list[Output]] = {}
        for shard, output in images:
            by_shard.setdefault(shard, []).append(output)
        try:
            self.shards.settle(by_shard)
            return []
        except Exception as error:
            lease = images[0][0].lease
            message = f"{len(images)} images of job {lease.job_id} are not recorded yet: {brief(error)}"
            log.warning("%s", message, extra=logs.lease_fields(lease))
            if is_transient(error) and not self._hurry:
                return images
            if is_transient(error):
                for shard in by_shard:
                    self.shards.return_to_queue(shard)
            elif len(by_shard) == 1:
                for shard in by_shard:
                    self.shards.fail_attempt(shard, f"its images could not be recorded: {describe(error)}")
            else:  # one of the shards is to blame
                again = [self._settle([(shard, record) for record in records]) for shard, records in by_shard.items()]
                return [image for part in again for image in part]
            return []
