"""What a request would be, before it is submitted, and the queues that it may use."""

from fastapi import APIRouter, HTTPException

from services.console.api.access import Reading
from services.console.api.bodies import Answer, Question, QueueInList, QueueList
from services.console.submission import Draft
from services.errors import quote
from services.job_queue.prospects import find_pace, list_visible_queues
from services.job_requests.schema import Limits, plan_request
from services.registry import viewing
from services.registry.releases import ReleaseRow, request_rules

router = APIRouter(tags=["requests"])


@router.post("/checks")
def check_request(call: Reading, question: Question) -> Answer:
    """Validate a request as planning will, and say what it would make. It submits nothing."""
    if "input_uri" in question.request:
        raise HTTPException(422, "input_uri: its lines are not read here; submit the request with dry_run instead.")
    with call.database() as connection:
        release: ReleaseRow = viewing.find_reference(connection, question.model) or call.missing(
            f"Release {quote(question.model)}"
        )
        pace = find_pace(connection, question.model)
    plan = plan_request(question.request, request_rules(release.manifest), Limits((f"outputs/{call.token.tenant}",)))
    draft = Draft({}, question.request, plan=plan)
    return Answer(
        release=f"{release.name}@{release.version}", items=len(plan["items"]), images=draft.images,
        evaluations=draft.cost, seconds=draft.images / pace if pace else None,
    )  # fmt: skip


@router.get("/queues")
def list_queues(call: Reading) -> QueueList:
    """List the queues that the tenant may use, and which of them are paused."""
    with call.database() as connection:
        queues = list_visible_queues(connection)
    return QueueList(queues=[QueueInList(name=name, paused=paused) for name, paused in queues.items()])
