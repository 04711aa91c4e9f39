"""The states of jobs and of work. docs/state_machine.md shows which state follows which."""

from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """A value of `jobs.state`."""

    SUBMITTED = "submitted"
    PLANNED = "planned"
    RUNNING = "running"
    FINALIZING = "finalizing"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


class WorkState(StrEnum):
    """A value of `work.state`."""

    READY = "ready"
    DELAYED = "delayed"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WorkKind(StrEnum):
    """A value of `work.kind`: what the work does for its job."""

    PLAN = "plan"
    SAMPLE = "sample"
    FINALIZE = "finalize"


class ProcessKind(StrEnum):
    """A value of `workers.kind`: dispatchers plan and finalize, workers sample."""

    DISPATCHER = "dispatcher"
    WORKER = "worker"


# A job in one of these states has ended; only `retry_job` starts it again.
TERMINAL: Final = frozenset(
    {JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.REJECTED, JobState.CANCELLED}
)
# The ended jobs that `retry_job` accepts, if they were planned.
RETRYABLE: Final = frozenset({JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED})
# Work in one of these states still has to be done: its job has not ended.
OPEN_WORK: Final = (WorkState.READY, WorkState.LEASED, WorkState.DELAYED)
