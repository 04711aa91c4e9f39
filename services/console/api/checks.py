"""Endpoints that validate a request before it is submitted and list the queues that it may use."""

from fastapi import APIRouter

from services.console.api.access import Reading, TokenRoute
from services.console.api.bodies import Answer, Question, QueueInList, QueueList, StageInAnswer
from services.console.checking import check_request as check
from services.console.checking import expect_seconds
from services.errors import quote
from services.job_queue.prospects import list_visible_queues
from services.registry import viewing
from services.registry.releases import ReleaseRow

router = APIRouter(tags=["requests"], route_class=TokenRoute)


@router.post("/checks")
def check_request(call: Reading, question: Question) -> Answer:
    """Validate a request as planning will, and say what it would make. It submits nothing."""
    with call.database() as connection:
        release: ReleaseRow = viewing.find_reference(connection, question.model) or call.missing(
            f"Release {quote(question.model)}"
        )
        checked = check(connection, release, question.request, call.parts.store.bucket)
        seconds = expect_seconds(connection, question.model, checked)
    return Answer(
        release=f"{release.name}@{release.version}", items=checked.items, images=checked.images,
        evaluations=checked.evaluations, stages=[StageInAnswer(**vars(one)) for one in checked.stages], seconds=seconds,
    )  # fmt: skip


@router.get("/queues")
def list_queues(call: Reading) -> QueueList:
    """List the queues that the tenant may use, and which of them are paused."""
    with call.database() as connection:
        queues = list_visible_queues(connection)
    return QueueList(queues=[QueueInList(name=name, paused=paused) for name, paused in queues.items()])
