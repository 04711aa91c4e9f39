"""Replays what a real queue has done against the rules: each transaction must be steps that they allow."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.job_queue.leases import MAX_LOSSES
from services.job_queue.states import OPEN_WORK, TERMINAL, JobState, WorkKind, WorkState
from tests.model.recording import Change
from tests.model.rules import Rules, Steps
from tests.model.state import FAILED, MISSING, NOBODY, Job, Piece, Process, State, Step

WIDTH = 20_000  # states that are looked at to explain one transaction


@dataclass(frozen=True)
class RecordedRules(Rules):
    """The rules, with shards as they were recorded, and images in any order.

    ends: where shards may end. may_set_aside: the job has a row that the service cannot handle, so that its work is set
    aside. That is no part of what is explored.
    """

    ends: tuple[int, ...] = ()
    may_set_aside: bool = False

    def next_shards(self, job: Job) -> list[tuple[int, int]]:
        """Return the shards that may be planned next."""
        return [(job.planned_to, stop) for stop in self.ends if stop > job.planned_to]

    def next_images(self, missing: list[int]) -> list[int]:
        """Return which of the missing images of a shard may be settled next: any."""
        return missing

    def dispatcher_steps(self, state: State, piece: Piece) -> Steps:
        """Yield what a dispatcher does."""
        yield from super().dispatcher_steps(state, piece)
        if self.may_set_aside:
            yield Step("a dispatcher sets the work aside", piece=piece), state.with_piece(piece)

    def client_steps(self, state: State) -> Steps:
        """Yield what clients do, and that a job is set aside."""
        yield from super().client_steps(state)
        if self.may_set_aside and state.job.state not in TERMINAL:
            set_aside = state.job._replace(state=JobState.FAILED, gave_up=True)
            yield Step("a dispatcher sets the job aside"), state._replace(job=set_aside)


@dataclass
class RecordedJob:
    """A job as the recorded changes have left it. Each attribute has rows of one table."""

    jobs: dict[str, Any] = field(default_factory=dict)
    work: dict[int, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[int, dict[str, Any]] = field(default_factory=dict)
    stage_outputs: set[tuple[int, int]] = field(default_factory=set)  # index and stage
    is_cancel_requested: bool = False
    tokens: set[int] = field(default_factory=set)

    def apply(self, change: Change) -> None:
        """Change a row. Raises AssertionError for a token that a lease should not have."""
        row = change.new or change.old
        assert row is not None
        if change.kind == "jobs":
            self.jobs = change.new or {}
        elif change.kind == "cancel_requests":
            self.is_cancel_requested = change.new is not None
        elif change.kind == "stage_outputs":
            (self.stage_outputs.discard if change.new is None else self.stage_outputs.add)((row["index"], row["stage"]))
        elif change.kind == "job_stages":
            pass
        else:
            rows = self.work if change.kind == "work" else self.outputs
            key = row["id"] if change.kind == "work" else row["index"]
            if change.kind == "work" and change.new is not None:
                self._check_token(change.old, change.new)
            if change.new is None:
                rows.pop(key, None)
            else:
                rows[key] = change.new

    def _check_token(self, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
        is_claim = old is not None and old["state"] != "leased" and new["state"] == "leased"
        if is_claim:
            assert new["token"] not in self.tokens, f"the token {new['token']} was given twice"
            self.tokens.add(new["token"])
        elif old is not None:
            assert new["token"] == old["token"], "a token has changed although the work was not claimed"

    def state(self, total: int, numbers: Mapping[str, int], stages: int) -> State:
        """Return what the database knows of the job. numbers: of its processes. stages: of a chain."""
        row = self.jobs
        dropped = {  # planning has not yet deleted the rows of what failed in an earlier revision
            index for index, image in self.outputs.items() if image["error"] and image["revision"] < row["revision"]
        }
        images = "".join(
            MISSING if (image := self.outputs.get(index)) is None or index in dropped
            else FAILED if image["error"] is not None else str(image["revision"]) for index in range(total)
        )  # fmt: skip
        cancel = 2 if row["cancel_requested_at"] else int(self.is_cancel_requested)
        job = Job(
            images, MISSING * total, JobState(row["state"]), row["revision"], row["is_planned"], row["planned_to"],
            row["succeeded"], row["failed"], cancel, has_manifest=row["manifest_key"] is not None,
            made="".join(
                str(sum((index, stage) in self.stage_outputs for stage in range(stages) if index not in dropped))
                for index in range(total)
            ) if stages > 1 else "",
        )  # fmt: skip
        pieces = (
            Piece(
                0, WorkKind(work["kind"]), work["start"], work["stop"], WorkState(work["state"]), work["attempts"],
                min(work["losses"], MAX_LOSSES), work["suspect"], work["isolated"],
                numbers[work["owner"]] if work["owner"] else NOBODY, stage=work["stage"] or 0,
            )
            for work in self.work.values() if work["state"] in OPEN_WORK
        )  # fmt: skip
        return State(job, tuple(sorted(pieces)), (Process(),) * len(numbers))


def known(state: State) -> State:
    """Return what the database knows of a state."""
    job = state.job._replace(
        listed=MISSING * len(state.job.images), manifest=0, gave_up=False, is_overdue=False, has_deadline=True
    )
    pieces = (piece._replace(revision=0, seen=-1, content="") for piece in state.pieces)
    return State(job, tuple(sorted(pieces)), (Process(),) * len(state.processes))


@dataclass
class Replay:
    """Replays transactions.

    stale_s: for how long an owner must be silent. pids: the process id of each owner, if the connections of processes
    are named by it. poisoner: the tenant whose rows may be set aside.
    """

    stale_s: float
    poisoner: str | None = None
    pids: Mapping[str, int] = field(default_factory=dict)
    transactions: int = 0
    steps: dict[str, int] = field(default_factory=dict)

    def run(self, transactions: Iterable[list[Change]]) -> None:
        """Raise AssertionError at the first transaction that the rules do not allow."""
        of_jobs: dict[str, list[list[Change]]] = {}
        for changes in transactions:
            of_jobs.setdefault(changes[0].job, []).append(changes)
        for of_job in of_jobs.values():
            self._run_job(of_job)

    def _run_job(self, transactions: list[list[Change]]) -> None:
        rows = [change.new for changes in transactions for change in changes if change.kind == "jobs" and change.new]
        owners = sorted({str(change.new["owner"]) for changes in transactions for change in changes
                         if change.kind == "work" and change.new and change.new["owner"]})  # fmt: skip
        numbers = {owner: number for number, owner in enumerate(owners)}
        total = max((row["total"] for row in rows), default=0) or 1
        stages = 1 + max((change.new["stage"] for changes in transactions for change in changes
                          if change.kind == "job_stages" and change.new), default=0)  # fmt: skip
        recorded, state = RecordedJob(), None
        for changes in transactions:
            before = state and state.job.state
            for change in changes:
                recorded.apply(change)
            if not recorded.jobs:  # it was deleted, or inserted before the recording began
                recorded, state = RecordedJob(), None
                continue
            target = recorded.state(total, numbers, stages)
            if state is None:
                state = target._replace(pieces=tuple(piece._replace(revision=1) for piece in target.pieces))
                assert target.job.state == JobState.SUBMITTED, target
                assert [piece.kind for piece in target.pieces] == [WorkKind.PLAN], target
                continue
            self.transactions += 1
            found = self.explain(state, target, changes, owners, stages)
            if found is None:
                lines = [f"the rules do not allow this transaction of {changes[0].login} in a job that is {before}:"]
                raise AssertionError("\n".join([*lines, *_differences(known(state), target)]))
            state = found

    def explain(
        self, state: State, target: State, changes: list[Change], owners: list[str], stages: int = 1
    ) -> State | None:
        """Return the state that the rules lead to and the database knows as `target`, or None."""
        if known(state) == target:
            return state
        leased = [(change.old["owner"], change) for change in changes if change.kind == "work" and change.old]
        silent = {owner for owner, change in leased if owner and self._is_lost(change)}
        is_overdue = any(change.is_overdue for change in changes)
        ends = {piece.start for piece in target.pieces} | {piece.stop for piece in target.pieces}
        rules = RecordedRules(
            revisions=99,
            stages=stages,
            may_set_aside=changes[0].tenant == self.poisoner,
            ends=tuple(sorted(ends | {target.job.planned_to, len(target.job.images)})),
        )
        for is_silent in (False, True):  # a process that was silent may go on, if nobody has taken its work
            processes = tuple(Process(is_silent and owner in silent) for owner in owners)
            begin = state._replace(job=state.job._replace(is_overdue=is_overdue), processes=processes)
            if found := self._search(rules, begin, target, changes[0], owners):
                return found
        return None

    def _is_lost(self, change: Change) -> bool:
        """Whether the owner was silent, or may have been: it was heard of after the transaction had begun."""
        silent_s = change.silent_s
        return bool(change.is_over) or silent_s is None or silent_s < 0 or silent_s > self.stale_s

    def _search(self, rules: Rules, begin: State, target: State, change: Change, owners: list[str]) -> State | None:
        """Look for steps from one state to the other, depth first. Each brings the state nearer, or leaves it there."""
        paths: list[tuple[State, tuple[str, ...]]] = [(begin, ())]
        seen = {begin}
        first = known(begin)
        while paths and len(seen) < WIDTH:
            state, path = paths.pop()
            if known(state) == target:
                for words in path:
                    self.steps[words] = self.steps.get(words, 0) + 1
                return state
            for step, after in rules.steps(state):
                if (
                    after not in seen
                    and self._may_do(step, change, owners)
                    and _is_between(first, known(after), target)
                ):
                    seen.add(after)
                    paths.append((after, (*path, _kind(step))))
        return None

    def _may_do(self, step: Step, change: Change, owners: list[str]) -> bool:
        """Whether the login, and the process if it is known, are those that do such a step."""
        role = change.login.removeprefix("local_")
        if step.words in ("dies", "falls silent", "the deadline passes"):
            return False
        if role not in ("dispatcher", "worker"):
            return role == "postgres" or step.words.startswith("the client")
        if step.words.startswith("the client"):
            return False
        if step.process is None or step.piece is None:
            return role == "dispatcher"
        pid = self.pids.get(owners[step.process])
        return (role == "worker") == (step.piece.kind == WorkKind.SAMPLE) and (
            pid is None or change.process == str(pid)
        )


def _kind(step: Step) -> str:
    return "".join(letter for letter in step.words if not letter.isdigit())


def _is_between(first: State, state: State, target: State) -> bool:
    """Whether every part of a state is as in the first or as in the last one."""
    kept, pieces = set(first.pieces) & set(target.pieces), set(state.pieces)
    if not kept <= pieces <= {*first.pieces, *target.pieces}:
        return False
    if state.job.state in TERMINAL and state.job.state not in (first.job.state, target.job.state):
        return False
    parts = zip(*(_parts(one.job) for one in (state, first, target)), strict=True)
    return all(part in ends for part, *ends in parts)


def _parts(job: Job) -> tuple[object, ...]:
    return (*job.images, *job.made, job.cancel, job.revision, job.has_manifest)


def _differences(state: State, target: State) -> Iterator[str]:
    for name, was, becomes in zip(Job._fields, state.job, target.job, strict=True):
        if was != becomes:
            yield f"  jobs.{name}: {was!r} becomes {becomes!r}"
    for piece in sorted({*state.pieces} ^ {*target.pieces}):
        yield f"  {'-' if piece in state.pieces else '+'} {piece}"
