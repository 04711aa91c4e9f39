"""The rules of the queue: which step may follow in which state. Guards have the names of docs/queue_model.md.

A recorded transaction may be several steps of the model: images are settled one at a time, and shards planned one at a
time. So the model allows every order that the service has, and more.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from services.job_queue.leases import MAX_ATTEMPTS, MAX_LOSSES
from services.job_queue.states import RETRYABLE, TERMINAL, JobState, WorkKind, WorkState
from tests.model.state import (
    FAILED,
    LOST,
    MISSING,
    NOBODY,
    STORED,
    UNREAD,
    Job,
    Piece,
    Process,
    State,
    Step,
    describe_images,
)

STOPPABLE = (JobState.SUBMITTED, JobState.PLANNED, JobState.RUNNING)
Steps = Iterator[tuple[Step, State]]


@dataclass(frozen=True)
class Rules:
    """The guards, and the size of what is explored. A seeded mistake is a subclass that overrides one guard."""

    images: int = 2
    shard: int = 2
    processes: int = 2
    revisions: int = 2
    max_attempts: int = MAX_ATTEMPTS
    has_losses: bool = True  # processes die and fall silent
    has_errors: bool = True  # attempts fail, images are bad
    has_stops: bool = True  # the job is cancelled, or its deadline passes
    stages: int = 1  # of a chain

    def start(self) -> State:
        """Return the state after the job's INSERT."""
        made = "0" * self.images if self.stages > 1 else ""
        job = Job(MISSING * self.images, MISSING * self.images, made=made)
        return State(job, (Piece(1, WorkKind.PLAN),), (Process(),) * self.processes)

    # -- guards ------------------------------------------------------------------------------------

    def is_held(self, piece: Piece | None, is_stale: bool) -> bool:
        """Fencing: a holder may write while the row has the token of its lease."""
        return piece is not None and piece.state == WorkState.LEASED and not is_stale

    def is_lost(self, state: State, piece: Piece) -> bool:
        """A lease returns to the queue if its process is gone or silent, however long it takes."""
        return piece.owner == LOST or (piece.owner >= 0 and state.processes[piece.owner].is_silent)

    def may_claim(self, state: State, number: int, piece: Piece) -> bool:
        """A process claims nothing beside a suspect. Planning that is a suspect is claimed by an idle process only."""
        process = state.processes[number]
        held = [other for other in state.pieces if other.owner == number] + list(process.stale)
        if process.is_silent or any(other.suspect for other in held):
            return False
        return not (held and piece.suspect and piece.kind != WorkKind.SAMPLE)

    def is_alone(self, state: State, piece: Piece) -> bool:
        """A suspect shard is isolated once its process holds nothing else."""
        others = [other for other in state.pieces if other.owner == piece.owner and other is not piece]
        return not others and not state.processes[piece.owner].stale

    def may_run(self, piece: Piece) -> bool:
        """A suspect runs alone."""
        return piece.isolated or not piece.suspect

    def is_cut(self, piece: Piece) -> bool:
        """A shard that was lost alone is cut in two, unless it is a single image."""
        return piece.isolated and piece.kind == WorkKind.SAMPLE and piece.stop - piece.start > 1

    def must_stop(self, job: Job, accepted: bool) -> bool:
        """A job stops when it is cancelled or its deadline has passed. Holders need not wait for acceptance."""
        return job.cancel == 2 or job.is_overdue or (job.cancel == 1 and not accepted)

    def may_finalize(self, state: State) -> bool:
        """A job is finalized when neither planning nor a shard is open."""
        return not any(piece.kind != WorkKind.FINALIZE for piece in state.pieces)

    def may_store_manifest(self, job: Job, lease: Piece) -> bool:
        """S3 has no fence, so a manifest replaces only the one that its finalizer has found."""
        return lease.seen == job.manifest

    def may_go_on(self, job: Job, piece: Piece) -> bool:
        """A shard goes on to its next stage once each of its images is made in this one, or has failed."""
        return not any(self.is_due(job, piece, index) for index in range(piece.start, piece.stop))

    def may_retry(self, job: Job) -> bool:
        """A job is retried if it was planned, and has ended without all of its images."""
        return job.state in RETRYABLE and job.is_planned

    def next_revision(self, job: Job) -> int:
        """Each retry is a revision of its own."""
        return job.revision + 1

    # -- all steps of a state ------------------------------------------------------------------------

    def steps(self, state: State) -> Steps:
        """Yield each step that may follow, with the state after it."""
        for piece in state.pieces:
            yield from self.dispatcher_steps(state, piece)
            if piece.state == WorkState.READY:
                for number in range(len(state.processes)):
                    if self.may_claim(state, number, piece):
                        isolated = piece.suspect and piece.kind != WorkKind.SAMPLE
                        claimed = piece._replace(state=WorkState.LEASED, owner=number, isolated=isolated)
                        yield Step("claims work", number, piece), state.with_piece(piece, claimed)
            elif piece.owner >= 0 and not state.processes[piece.owner].is_silent:
                yield from self.holder_steps(state, piece.owner, piece, piece, is_stale=False)
        for number, process in enumerate(state.processes):
            if not process.is_silent:
                for lease in process.stale:
                    yield from self.stale_steps(state, number, lease)
        if self.has_losses:
            yield from self.fault_steps(state)
        yield from self.client_steps(state)

    def client_steps(self, state: State) -> Steps:
        """Yield what clients do, and what happens to their requests."""
        job = state.job
        is_open = job.state not in TERMINAL
        if self.has_stops and job.cancel == 0:  # even if it has just ended
            yield Step("the client cancels the job", is_progress=False), state._replace(job=job._replace(cancel=1))
        may_expire = is_open and job.has_deadline and not job.is_overdue and job.state != JobState.FINALIZING
        if self.has_stops and may_expire:
            yield Step("the deadline passes", is_progress=False), state._replace(job=job._replace(is_overdue=True))
        if job.cancel == 1:
            words = "a dispatcher accepts the request to cancel" if is_open else "a dispatcher drops the request"
            yield Step(words), state._replace(job=job._replace(cancel=2 if is_open else 0))
        if self.may_retry(job) and job.revision < self.revisions:
            images = job.images.replace(FAILED, MISSING)
            made = "".join("0" if old == FAILED else n for old, n in zip(job.images, job.made, strict=False))
            again = job._replace(
                images=images, made=made, state=JobState.SUBMITTED, revision=self.next_revision(job), planned_to=0,
                failed=0, cancel=0, has_deadline=False, is_overdue=False, gave_up=False,
            )  # fmt: skip
            added = Piece(again.revision, WorkKind.PLAN)
            after = state._replace(job=again).with_piece(None, added)
            if any(map(int, job.made)):
                pruned = job._replace(made="0" * self.images)
                yield Step("the images of stages are pruned", is_progress=False), state._replace(job=pruned)
            yield Step("the client retries the job", is_progress=False), after

    def fault_steps(self, state: State) -> Steps:
        """Yield what happens to processes."""
        for number, process in enumerate(state.processes):
            held = [piece for piece in state.pieces if piece.owner == number]
            if held or process.stale:
                after = state.with_process(number, is_silent=False, stale=())
                for piece in held:
                    after = after.with_piece(piece, piece._replace(owner=LOST))
                yield Step("dies", number, is_progress=False), after
            if process.is_silent:
                yield Step("wakes", number), state.with_process(number, is_silent=False)
            elif held:
                yield Step("falls silent", number, is_progress=False), state.with_process(number, is_silent=True)

    def dispatcher_steps(self, state: State, piece: Piece) -> Steps:
        """Yield what a dispatcher does to a row of work."""
        job = state.job
        if piece.state == WorkState.DELAYED:
            yield Step("the pause is over", piece=piece), state.with_piece(piece, piece._replace(state=WorkState.READY))
        if piece.state == WorkState.LEASED:
            if self.is_lost(state, piece):
                yield Step("a dispatcher rescues the work", piece=piece), self.lose(state, piece, is_taken=True)
        elif job.state in STOPPABLE and self.must_stop(job, accepted=True):
            after = state.with_piece(piece)
            if piece.kind == WorkKind.SAMPLE and job.cancel != 2:
                after = self.fail_images(after, piece.start, piece.stop)
            if job.state == JobState.SUBMITTED and not after.pieces:
                ended = JobState.CANCELLED if job.cancel == 2 else JobState.FAILED
                after = after._replace(job=after.job._replace(state=ended))
            yield Step("a dispatcher stops the work", piece=piece), self.open_finalizing(after)

    # -- what a holder does ----------------------------------------------------------------------

    def stale_steps(self, state: State, number: int, lease: Piece) -> Steps:
        """Yield what a process does under a lease that was taken from it: its next write is refused."""
        row = next((piece for piece in state.pieces if piece[:3] == lease[:3]), None)
        stale = tuple(other for other in state.processes[number].stale if other is not lease)
        after = state.with_process(number, stale=stale)
        yield Step("writes and is refused", number, lease, is_stale=True), after
        if lease.kind == WorkKind.FINALIZE and lease.seen >= 0 and self.may_store_manifest(state.job, lease):
            yield Step("stores the manifest", number, lease, is_stale=True), self.store_manifest(after, lease)
        if row is not None and self.is_held(row, is_stale=True):
            yield from self.holder_steps(after, number, row, lease, is_stale=True)

    def holder_steps(self, state: State, number: int, piece: Piece, lease: Piece, *, is_stale: bool) -> Steps:
        """Yield what a process does under a lease. lease: the row as it was when it was claimed."""
        if not self.is_held(piece, is_stale):
            return
        act = {WorkKind.PLAN: self.planning_steps, WorkKind.SAMPLE: self.sampling_steps,
               WorkKind.FINALIZE: self.finalizing_steps}[piece.kind]  # fmt: skip
        for words, after in act(state, piece, lease):
            yield Step(words, number, lease, is_stale=is_stale), after
        if self.has_errors:
            for words, after in (
                ("returns the work to the queue", state.with_piece(piece, self.free(piece, WorkState.READY))),
                ("postpones the work", state.with_piece(piece, self.free(piece, WorkState.DELAYED))),
                ("fails an attempt of the work", self.fail_attempt(state, piece)),
            ):
                yield Step(words, number, lease, is_progress=False, is_stale=is_stale), after
            if piece.kind == WorkKind.SAMPLE and self.may_run(piece):
                words, after = "reports that a step failed", self.lose(state, piece, is_taken=False)
                yield Step(words, number, lease, is_progress=False, is_stale=is_stale), after

    def planning_steps(self, state: State, piece: Piece, lease: Piece) -> Iterator[tuple[str, State]]:
        """Yield what planning does: a batch, or the end of a job that must stop or is refused."""
        job = state.job
        if job.state == JobState.SUBMITTED and not job.is_planned:  # it may have been told to stop after the last look
            yield "rejects the job", state._replace(job=job._replace(state=JobState.REJECTED)).with_piece(piece)
        if self.must_stop(job, accepted=False) or job.state in TERMINAL:
            after = state.with_piece(piece)
            if job.state == JobState.SUBMITTED:
                ended = JobState.CANCELLED if job.cancel else JobState.FAILED
                after = after._replace(job=job._replace(state=ended))
            yield "stops planning", self.open_finalizing(after)
        if self.must_stop(job, accepted=True) or job.state not in STOPPABLE:  # a request may come after the last look
            return
        for start, stop in self.next_shards(job):
            if self.has_errors and (missing := job.images.find(MISSING, start, stop)) >= 0:
                invalid = self.fail_images(state, missing, missing + 1)
                yield f"finds that the item of image {missing} is not valid", invalid
            moved = JobState.PLANNED if job.state == JobState.SUBMITTED else job.state
            after = state._replace(job=job._replace(is_planned=True, state=moved, planned_to=stop))
            if MISSING in job.images[start:stop]:
                after = after.with_piece(None, Piece(job.revision, WorkKind.SAMPLE, start, stop))
            if stop == len(job.images):
                after = self.open_finalizing(after.with_piece(piece))
            yield f"plans {describe_images(start, stop)}", after

    def next_shards(self, job: Job) -> list[tuple[int, int]]:
        """Return the shards that may be planned next."""
        start = job.planned_to
        return [(start, min(start + self.shard, len(job.images)))]

    def sampling_steps(self, state: State, piece: Piece, lease: Piece) -> Iterator[tuple[str, State]]:
        """Yield what a worker does with a shard. Images are settled in order; their order does not matter."""
        job = state.job
        if job.state == JobState.PLANNED:
            yield "begins to sample", state._replace(job=job._replace(state=JobState.RUNNING))
        if self.must_stop(job, accepted=False) or job.state in TERMINAL:
            after = state.with_piece(piece)
            if not job.cancel and job.state not in TERMINAL:
                after = self.fail_images(after, piece.start, piece.stop)
            yield "stops the shard", self.open_finalizing(after)
        if piece.suspect and not piece.isolated and self.is_alone(state, piece):
            yield "isolates the shard", state.with_piece(piece, piece._replace(isolated=True))
        missing = [index for index in range(lease.start, lease.stop) if self.is_due(job, piece, index)]
        is_last = piece.stage == self.stages - 1
        if not is_last and MISSING in job.images[piece.start : piece.stop] and self.may_go_on(job, piece):
            following = Piece(piece.revision, piece.kind, piece.start, piece.stop, stage=piece.stage + 1)
            yield f"ends stage {piece.stage}", state.with_piece(piece, following)
        elif not missing:
            yield "ends the shard", self.open_finalizing(state.with_piece(piece))
        if missing and self.may_run(piece):
            for index in self.next_images(missing):
                if is_last:
                    yield f"stores image {index}", self.settle(state, index, str(job.revision))
                else:
                    yield f"stores image {index} of stage {piece.stage}", self.make(state, index, piece.stage)
                if self.has_errors:
                    yield f"finds that image {index} cannot be made", self.settle(state, index, FAILED)

    def is_due(self, job: Job, piece: Piece, index: int) -> bool:
        """Whether an image is to be made in the stage of a shard: it has not failed, and is not made yet."""
        return job.images[index] == MISSING and not (job.made and int(job.made[index]) > piece.stage)

    def next_images(self, missing: list[int]) -> list[int]:
        """Return which of the missing images of a shard may be settled next."""
        return missing[:1]

    def finalizing_steps(self, state: State, piece: Piece, lease: Piece) -> Iterator[tuple[str, State]]:
        """Yield what finalizing does: missing images, then the listings and the manifest, then the job's end."""
        job = state.job
        if piece.seen == UNREAD:
            missing = [index for index, image in enumerate(job.images) if image == MISSING]
            if missing and not job.cancel:
                for index in self.next_images(missing):
                    yield f"records that image {index} was not made", self.settle(state, index, FAILED)
            else:
                read = piece._replace(seen=job.manifest, content=self.list_images(job, piece.revision))
                yield "reads the images", state.with_piece(piece, read)
        elif piece.seen != STORED:
            if self.may_store_manifest(job, piece):
                after = state.with_piece(piece, piece._replace(seen=STORED, content=""))
                yield "stores the manifest", self.store_manifest(after, piece)
            else:
                ready = self.free(piece, WorkState.READY)
                yield "finds another manifest and returns the work", state.with_piece(piece, ready)
        elif job.state == JobState.FINALIZING:
            if job.succeeded == len(job.images):
                ended = JobState.SUCCEEDED
            elif job.succeeded + job.failed < len(job.images):
                ended = JobState.CANCELLED
            else:
                ended = JobState.PARTIAL if job.succeeded else JobState.FAILED
            yield "ends the job", state.with_piece(piece)._replace(job=job._replace(state=ended, has_manifest=True))

    # -- parts of steps ------------------------------------------------------------------------------

    def settle(self, state: State, index: int, outcome: str) -> State:
        """Record an image. The first record stays."""
        job = state.job
        if job.images[index] != MISSING:
            return state
        images = job.images[:index] + outcome + job.images[index + 1 :]
        moved = JobState.RUNNING if job.state == JobState.PLANNED else job.state
        is_bad = outcome == FAILED
        after = job._replace(
            images=images, state=moved, succeeded=job.succeeded + (not is_bad), failed=job.failed + is_bad
        )
        return state._replace(job=after)

    def make(self, state: State, index: int, stage: int) -> State:
        """Record an image of a stage that is not the last."""
        job = state.job
        moved = JobState.RUNNING if job.state == JobState.PLANNED else job.state
        made = job.made[:index] + str(stage + 1) + job.made[index + 1 :]
        return state._replace(job=job._replace(made=made, state=moved))

    def fail_images(self, state: State, start: int, stop: int) -> State:
        """Fail the missing images of [start, stop)."""
        job_state = state.job.state
        for index in range(start, stop):
            state = self.settle(state, index, FAILED)
        return state._replace(job=state.job._replace(state=job_state))

    def open_finalizing(self, state: State) -> State:
        """Add the finalizing of a job of which nothing else is open."""
        job = state.job
        if job.state not in (JobState.PLANNED, JobState.RUNNING) or not self.may_finalize(state):
            return state
        added = Piece(job.revision, WorkKind.FINALIZE)
        return state._replace(job=job._replace(state=JobState.FINALIZING)).with_piece(None, added)

    def free(self, piece: Piece, state: WorkState) -> Piece:
        """Return work as it is once its lease has ended."""
        return piece._replace(state=state, owner=NOBODY, isolated=False, seen=UNREAD, content="")

    def fail_attempt(self, state: State, piece: Piece) -> State:
        """Count a failed attempt. The last one fails the work."""
        attempts = piece.attempts + 1
        if attempts < self.max_attempts:
            return state.with_piece(piece, self.free(piece, WorkState.DELAYED)._replace(attempts=attempts))
        return self.fail(state.with_piece(piece), piece)

    def lose(self, state: State, piece: Piece, *, is_taken: bool) -> State:
        """Take work from a process that failed. Only work that was alone in it is to blame."""
        if is_taken and piece.owner >= 0:
            stale = Piece(*piece[:4], state=WorkState.LEASED, seen=piece.seen, content=piece.content)
            process = state.processes[piece.owner]
            state = state.with_process(piece.owner, stale=tuple(sorted({*process.stale, stale})))
        losses = min(piece.losses + 1, MAX_LOSSES)
        is_suspect = piece.isolated or losses >= MAX_LOSSES
        free = self.free(piece, WorkState.READY)._replace(losses=losses, suspect=is_suspect)
        if self.is_cut(piece):
            middle = (piece.start + piece.stop) // 2
            second = Piece(*piece[:2], middle, piece.stop, losses=losses, suspect=True, stage=piece.stage)
            return state.with_piece(piece, free._replace(stop=middle), second)
        if piece.isolated:
            if piece.attempts + 1 >= self.max_attempts:
                return self.fail(state.with_piece(piece), piece)
            free = free._replace(attempts=piece.attempts + 1)
        return state.with_piece(piece, free)

    def fail(self, state: State, piece: Piece) -> State:
        """Fail work for good: a shard's images, or the job if planning or finalizing is all that it has."""
        if piece.kind == WorkKind.SAMPLE:
            return self.open_finalizing(self.fail_images(state, piece.start, piece.stop))
        job = state.job
        moved = JobState.FAILED if job.state in (JobState.SUBMITTED, JobState.FINALIZING) else job.state
        return self.open_finalizing(state._replace(job=job._replace(state=moved, gave_up=True)))

    def list_images(self, job: Job, revision: int) -> str:
        """Return the listings of a revision: those of earlier ones, and one of the images that none of them names."""
        earlier = "".join(old if job.has_manifest and old < str(revision) else MISSING for old in job.listed)
        last = max(earlier)
        return "".join(
            str(revision) if image not in (MISSING, FAILED) and image > last else old
            for old, image in zip(earlier, job.images, strict=True)
        )

    def store_manifest(self, state: State, lease: Piece) -> State:
        """Store the listings that a finalizer has read, and the manifest that names them."""
        return state._replace(job=state.job._replace(manifest=lease.revision, listed=lease.content))
