"""Actions on jobs: on one, or on all that match a filter."""

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum

from sqlalchemy import Connection

from services.job_queue import clients
from services.job_queue.job_filters import CAN_BE_RETRIED, OPEN, PAUSED
from training.errors import DarkroomError

MOST_JOBS = 20_000  # of one form


class Action(StrEnum):
    """What is done to a job."""

    CANCEL = "cancel"
    RETRY = "retry"
    PAUSE = "pause"
    RESUME = "resume"
    PRIORITY = "priority"


# To which jobs it can be done; see `job_filters`.
MEANT = {
    Action.CANCEL: OPEN,
    Action.RETRY: CAN_BE_RETRIED,
    Action.PAUSE: f"{OPEN} AND NOT paused",
    Action.RESUME: PAUSED,
    Action.PRIORITY: OPEN,
}


class ActionError(DarkroomError):
    """A form asks for what cannot be done."""


def act(connection: Connection, action: Action, job_ids: Sequence[uuid.UUID], *, priority: str = "") -> int:
    """Do it to jobs of the viewer's tenant. Returns to how many it was done: the others had ended.

    priority: as the form gave it. Raises ActionError if it is no integer, and DBAPIError with a sentence for a person.
    """
    match action:
        case Action.CANCEL:
            return len(clients.cancel_jobs(connection, job_ids))
        case Action.RETRY:
            return len([clients.retry_job(connection, job_id) for job_id in job_ids])
        case Action.PAUSE | Action.RESUME:
            return len(clients.change_jobs(connection, job_ids, {"paused": action == Action.PAUSE}))
    return len(clients.change_jobs(connection, job_ids, {"priority": _parse_priority(priority)}))


def act_in_sets(
    begin: Callable[[], AbstractContextManager[Connection]],
    find: Callable[[Connection, uuid.UUID | None], list[uuid.UUID]],
    action: Action,
    *,
    priority: str = "",
) -> int:
    """Do it to jobs set by set, each in a transaction of its own, so that none holds locks for long.

    find: returns the next set after a job. Returns to how many it was done, at most about MOST_JOBS.
    """
    done, seen, last = 0, 0, None
    while seen < MOST_JOBS:
        with begin() as connection:
            job_ids = find(connection, last)
            if not job_ids:
                break
            done += act(connection, action, job_ids, priority=priority)
        seen, last = seen + len(job_ids), job_ids[-1]
    return done


def _parse_priority(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ActionError(f"priority: {text[:30]!r} is not allowed; permitted: an integer from -100 to 100") from None
