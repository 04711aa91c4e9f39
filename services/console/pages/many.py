"""Actions on many jobs: a page counts the jobs first, then the action applies to exactly these."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response
from pydantic import Field

from services.console.bulk import MEANT, MOST_JOBS, Action, act_in_sets
from services.console.forms import Form
from services.console.page import Page
from services.console.rendering import make_query
from services.job_queue.job_filters import JobFilter, count_jobs, find_jobs
from services.job_queue.prospects import list_permitted_queues
from services.job_queue.states import JobState

router = APIRouter()

Word = Annotated[str, Query(max_length=200)]


@router.get("/many")
def show_counts(
    page: Page,
    state: Annotated[list[JobState], Query(default_factory=list)],
    tag: Annotated[list[Annotated[str, Field(max_length=100)]], Query(default_factory=list, max_length=16)],
    model: Word = "",
    queue: Word = "",
    done: Annotated[int | None, Query(ge=0)] = None,
    action: Action | None = None,
) -> Response:
    """Show to how many of the jobs that meet a filter each action can be done."""
    until = datetime.now(UTC)
    tags = [one for one in tag if one]
    which = JobFilter(state, tags, model.strip() or None, queue or None, until=until)
    with page.database() as connection:
        total = count_jobs(connection, which, "true")
        counts = {one: count_jobs(connection, which, only) for one, only in MEANT.items()}
        queues = list_permitted_queues(connection)
    filters = {"state": state, "tag": tags, "model": model.strip(), "queue": queue}
    return page.render(
        "many.html", filters=filters, states=list(JobState), queues=queues, total=total, counts=counts,
        until=until.isoformat(), done=done, action=action, most=MOST_JOBS,
    )  # fmt: skip


@router.post("/many")
def act_on_many(page: Page, form: Form) -> Response:
    """Do it to the jobs that meet a filter and were submitted before the page was made."""
    filters: dict[str, Any] = {name: [str(one) for one in form.getlist(name)] for name in ("state", "tag")}
    filters |= {name: str(form.get(name, "")) for name in ("model", "queue")}
    try:
        action, until = Action(str(form.get("action"))), datetime.fromisoformat(str(form.get("until")))
        which = JobFilter(
            [JobState(one) for one in filters["state"]], filters["tag"], filters["model"] or None,
            filters["queue"] or None, until=until,
        )  # fmt: skip
    except ValueError as error:
        raise HTTPException(422, f"{error}. Reload the page and send its form again.") from None
    done = act_in_sets(
        page.database, lambda connection, last: find_jobs(connection, which, MEANT[action], after=last), action,
        priority=str(form.get("priority", "")),
    )  # fmt: skip
    return page.go_to(f"/many{make_query(filters, done=done, action=action)}")
