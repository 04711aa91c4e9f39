"""A submitted job."""

import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from services.client.backend import Backend
from services.client.errors import JobNotFound
from services.client.image import Image
from services.client.ranges import Range, remove
from services.job_queue import clients
from services.job_queue.outputs import Output
from services.job_queue.pairs import Pair

Found = TypeVar("Found")

ALL: list[Range] = [(0, 2**31 - 1)]
TOGETHER = 1_000  # images of one statement
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class Job:
    """A job of the tenant. Its methods ask the service each time; they wait while it is away."""

    def __init__(self, job_id: uuid.UUID, backend: Backend) -> None:
        """Use `Darkroom.submit` or `Darkroom.job`."""
        self.id = job_id
        self._backend = backend

    def __repr__(self) -> str:
        return f"Job({self.id})"

    def status(self) -> clients.JobSummary:
        """Return the job's state, reason, counts and times. Raises JobNotFound."""
        return self._found(self._backend.find_summary(self.id))

    def progress(self) -> clients.Progress:
        """Return the share that is done, the expected end, and why the job waits. Raises JobNotFound."""
        return self._found(self._backend.find_progress(self.id))

    def _found(self, found: Found | None) -> Found:
        if found is None:
            raise JobNotFound(f"job: you have no job {self.id}")
        return found

    def wait(self, timeout_s: float | None = None) -> clients.JobSummary:
        """Wait until the job has ended, and return how. Raises TimeoutError after `timeout_s` seconds."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause = SHORTEST_PAUSE_S
        while True:
            job = self.status()
            if job.has_ended:
                return job
            if deadline is not None:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"job {self.id} is {job.state} after {timeout_s:g} s")
                pause = min(pause, max(deadline - time.monotonic(), 0))
            time.sleep(pause)
            pause = min(max(2 * pause, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)

    def images(self) -> Iterator[Image]:
        """Yield each stored image once, as soon as it is stored, until the job has ended.

        They come in any order; `index` tells their places. Images that failed are left out: see `failures`.
        """
        for output in self._outputs():
            if output.key is not None:
                yield Image.of_output(output, self.id, self._backend)

    def failures(self) -> Iterator[Output]:
        """Yield each image that failed, with its `error`, until the job has ended."""
        for output in self._outputs():
            if output.error is not None:
                yield output

    def pairs(self, other: "Job") -> Iterator[Pair]:
        """Yield what both jobs have made so far of the same index, item and seed, by index.

        A pair has the sha256 of both images, None for one that failed. Nothing is yielded for a job of another tenant.
        """
        last = -1
        while found := self._backend.list_pairs(self.id, other.id, last, TOGETHER):
            yield from found
            last = found[-1].index

    def rate(self, index: int, rating: int) -> None:
        """Rate an image from 1 to 5; 0 removes its rating. Over HTTP alone. Raises ClientError and JobNotFound."""
        self._backend.rate(self.id, index, rating)

    def save_picks(self, file: str | Path, rating: int = 1) -> Path:
        """Write the images that are rated so or better to a ZIP, which `data.root` of a training reads.

        Over HTTP alone. Raises ClientError and JobNotFound.
        """
        self._backend.save_picks(self.id, rating, Path(file))
        return Path(file)

    def archives(self) -> list[str]:
        """Return the s3:// URIs of the job's archives by the index of their images; none before its end.

        Over HTTP they are keys alone.
        """
        key = self.status().manifest_key
        if key is None:
            return []
        manifest = self._backend.read_manifest(self.id, key)
        return [self._backend.uri_of(archive["key"]) for archive in manifest.get("archives", ())]

    def _outputs(self) -> Iterator[Output]:
        unseen, pause = ALL, SHORTEST_PAUSE_S
        while True:
            has_ended = self.status().has_ended  # before the outputs are read: an ended job gets no more
            outputs = self._backend.read_ranges(self.id, unseen, TOGETHER)
            yield from outputs
            unseen = remove(unseen, [output.index for output in outputs])
            if len(outputs) == TOGETHER:
                continue
            if has_ended:
                return
            pause = SHORTEST_PAUSE_S if outputs else min(2 * pause, LONGEST_PAUSE_S)
            time.sleep(pause)

    def cancel(self) -> None:
        """Ask the job to stop. Its work stops within seconds; stored images stay. An ended job is left as it is."""
        self._backend.cancel(self.id)

    def change(
        self,
        *,
        priority: int | None = None,
        deadline: datetime | Literal["none"] | None = None,
        tags: Sequence[str] | None = None,
    ) -> None:
        """Change the job within a second; what is None stays. deadline: "none" takes it away.

        Of an ended job only the tags change. Raises ClientError for a value that is not permitted.
        """
        given = {"priority": priority, "tags": None if tags is None else list(tags)}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if deadline is not None:
            changes["deadline"] = None if deadline == "none" else deadline.astimezone().isoformat()
        self._change(changes)

    def pause(self) -> None:
        """Begin no more of the job's images. Those that are being made are finished."""
        self._change({"paused": True})

    def resume(self) -> None:
        """Go on with a paused job."""
        self._change({"paused": False})

    def _change(self, changes: dict[str, Any]) -> None:
        self._backend.change(self.id, changes)

    def retry(self) -> int:
        """Make the images of an ended job that failed or are missing. Returns the number of the revision.

        Raises ClientError if the job has not ended, or cannot be retried.
        """
        return self._backend.retry(self.id)
