"""What the model of the queue looks at: one job, its open work, and the processes that hold it.

Time does not exist in it. Whatever may take long may happen at any moment, or never.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from services.job_queue.states import JobState, WorkKind, WorkState

NOBODY, LOST = -1, -2  # owners: of work that is not leased, and of work whose process is gone
MISSING, FAILED = ".", "x"  # of an image; a stored one has the number of the revision that stored it
UNREAD, STORED = -1, -2  # what a finalizer has seen of the manifest: nothing yet, or it has stored its own


class Piece(NamedTuple):
    """A row of `work` that is open. `owner` is the number of a process.

    revision: of the job that added it. seen: the revision of the manifest that a finalizer has found.
    content: the listings that it will write, as in Job.listed. stage: of a chain, in which a shard is.
    """

    revision: int
    kind: WorkKind
    start: int = 0
    stop: int = 0
    state: WorkState = WorkState.READY
    attempts: int = 0
    losses: int = 0
    suspect: bool = False
    isolated: bool = False
    owner: int = NOBODY
    seen: int = UNREAD
    content: str = ""
    stage: int = 0


class Job(NamedTuple):
    """A row of `jobs` with its outputs and its objects in S3. Strings have one letter for each image.

    cancel: 0, 1 once it is asked for, 2 once a dispatcher has accepted that. gave_up: planning has failed for good.
    made: how many stages of a chain have made the image; empty if the job is none.
    manifest: the revision of the stored manifest. listed: the revision of the listing that names the image in it.
    """

    images: str
    listed: str
    state: JobState = JobState.SUBMITTED
    revision: int = 1
    is_planned: bool = False
    planned_to: int = 0
    succeeded: int = 0
    failed: int = 0
    cancel: int = 0
    has_deadline: bool = True  # a retry has none
    is_overdue: bool = False
    gave_up: bool = False
    manifest: int = 0
    has_manifest: bool = False  # recorded by the job's end
    made: str = ""


class Process(NamedTuple):
    """A process. stale: leases that were taken from it while it was silent, about which it does not know."""

    is_silent: bool = False
    stale: tuple[Piece, ...] = ()


class State(NamedTuple):
    """The whole of the model. `pieces` are sorted."""

    job: Job
    pieces: tuple[Piece, ...]
    processes: tuple[Process, ...]

    def with_piece(self, old: Piece | None, *new: Piece) -> "State":
        """Return the state with a piece of work replaced, added or removed."""
        pieces = [piece for piece in self.pieces if piece is not old]
        return self._replace(pieces=tuple(sorted((*pieces, *new))))

    def with_process(self, number: int, **changes: Any) -> "State":
        """Return the state with a process changed."""
        processes = list(self.processes)
        processes[number] = processes[number]._replace(**changes)
        return self._replace(processes=tuple(processes))

    def order(self) -> list[int]:
        """Return the processes in an order that depends on what they hold, and not on which of them is which."""
        held = [[piece for piece in self.pieces if piece.owner == number] for number in range(len(self.processes))]
        return sorted(range(len(self.processes)), key=lambda number: (self.processes[number], held[number]))

    def reorder(self, order: list[int]) -> "State":
        """Return the same state of affairs with its processes in another order."""
        names = {old: new for new, old in enumerate(order)}
        pieces = sorted(piece._replace(owner=names.get(piece.owner, piece.owner)) for piece in self.pieces)
        return State(self.job, tuple(pieces), tuple(self.processes[number] for number in order))


class Step(NamedTuple):
    """One step of the model. The words say what happens; `process` is who does it.

    is_progress: it happens sooner or later by itself. The others are faults, and what clients do.
    """

    words: str
    process: int | None = None
    piece: Piece | None = None
    is_progress: bool = True
    is_stale: bool = False  # under a lease that was taken from the process

    def describe(self, names: Sequence[str]) -> str:
        """Return the step as a line. names: of the processes."""
        who = "" if self.process is None else f"{names[self.process]} "
        what = ""
        if self.piece is not None:
            start, stop = self.piece.start, self.piece.stop
            what = f" [{describe_images(start, stop) if self.piece.kind == WorkKind.SAMPLE else self.piece.kind}]"
        return f"{who}{self.words}{what}{', under a lease that was taken from it' if self.is_stale else ''}"


def describe_images(start: int, stop: int) -> str:
    """Return the images [start, stop) in words."""
    return f"image {start}" if stop - start == 1 else f"images {start}-{stop - 1}"
