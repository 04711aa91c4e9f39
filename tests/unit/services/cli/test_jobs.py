"""How jobs are listed."""

import uuid
from datetime import UTC, datetime

from services.cli.jobs import summary_row
from services.job_queue.clients import JobSummary
from services.job_queue.states import JobState

JOB = JobSummary(
    id=uuid.UUID(int=7), model="digits@production", queue="default", priority=0, state=JobState.REJECTED, revision=1,
    reason=None, total=0, succeeded=0, failed=0, manifest_key=None, run_after=None, deadline=None,
    cancel_requested_at=None, paused=False, tags=[],
    created_at=datetime(2030, 1, 31, 18, tzinfo=UTC), started_at=None, finished_at=None,
)  # fmt: skip


def with_reason(reason: str | None) -> str:
    return summary_row(JobSummary(**{**JOB.__dict__, "reason": reason}))[-1]


def test_a_job_is_one_line_however_many_mistakes_its_request_has() -> None:
    assert with_reason("steps: 0 is not allowed\nseed: -1 is not allowed\nand 3 more mistakes") == (
        "steps: 0 is not allowed (more: darkroom jobs show)"
    )
    assert with_reason("steps: 0 is not allowed") == "steps: 0 is not allowed"
    assert with_reason(None) == ""


def test_the_id_is_whole() -> None:
    assert summary_row(JOB)[0] == "00000000-0000-0000-0000-000000000007"
