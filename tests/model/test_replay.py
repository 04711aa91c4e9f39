"""The replay of recorded transactions refuses what the rules do not allow."""

from typing import Any

import pytest

from services.job_queue.states import JobState, WorkKind, WorkState
from tests.model.recording import Change
from tests.model.replay import Replay
from tests.model.state import MISSING, Job, Piece, Process, State

A, B = "process-a", "process-b"
JOB = Job(MISSING * 4, MISSING * 4, JobState.RUNNING, is_planned=True, planned_to=4)
FIRST = Piece(0, WorkKind.SAMPLE, 0, 2, WorkState.LEASED, owner=0)
SECOND = Piece(0, WorkKind.SAMPLE, 2, 4)
SETTLED = {"images": "11..", "succeeded": 2}
RESCUED = FIRST._replace(state=WorkState.READY, owner=-1, losses=1)
FINALIZE = Piece(0, WorkKind.FINALIZE)


def is_allowed(
    job: dict[str, Any], *pieces: Piece, login: str = "local_worker", pid: int = 1, silent_s: float = 0.1
) -> bool:
    """Whether the rules lead from FIRST and SECOND to these pieces and this job."""
    before = State(JOB, (FIRST._replace(revision=1), SECOND._replace(revision=1)), (Process(), Process()))
    after = State(JOB._replace(**job), tuple(sorted(pieces)), before.processes)
    change = Change("1", login, str(pid), "work", "job", "default", {"owner": A}, None, silent_s, False, False)
    replay = Replay(stale_s=4, pids={A: 1, B: 2})
    return replay.explain(before, after, [change], [A, B]) is not None


@pytest.mark.parametrize(
    ("job", "pieces", "options", "allowed"),
    [
        (SETTLED, [SECOND], {}, True),
        (SETTLED, [SECOND], {"pid": 2}, False),  # another process holds the lease
        (SETTLED, [SECOND], {"login": "local_dispatcher"}, False),
        ({"images": "11..", "succeeded": 1}, [SECOND], {}, False),
        ({"images": "1...", "succeeded": 1}, [SECOND], {}, False),  # it ends a shard with a missing image
        ({}, [RESCUED, SECOND], {"login": "local_dispatcher", "silent_s": 5}, True),
        ({}, [RESCUED, SECOND], {"login": "local_dispatcher"}, False),  # its process is alive
        ({}, [FIRST, SECOND._replace(state=WorkState.LEASED, owner=1)], {"pid": 2}, True),
        ({"state": JobState.FINALIZING, **SETTLED}, [SECOND, FINALIZE], {}, False),
        ({"state": JobState.FAILED}, [FIRST, SECOND], {"login": "local_dispatcher"}, False),
        ({"cancel": 1}, [FIRST, SECOND], {"login": "local_submitter"}, True),
        ({"cancel": 1}, [FIRST, SECOND], {}, False),
    ],
)
def test_a_transaction_is_allowed_or_not(
    job: dict[str, Any], pieces: list[Piece], options: dict[str, Any], allowed: bool
) -> None:
    assert is_allowed(job, *pieces, **options) == allowed
