"""The service page: workers, dispatchers and queues for operators, and why jobs wait for all users."""

from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi import Path as PathParameter
from fastapi.responses import Response

from services.console.forms import Form
from services.console.page import Page
from services.job_queue import operating

router = APIRouter()

STALE_S = 60  # after which a process without a heartbeat is shown as silent
PROCESSES, WAITING = 200, 200


@router.get("/service")
def show_service(page: Page) -> Response:
    """Show processes and queues, and which jobs of the tenant wait."""
    with page.database() as connection:
        processes = operating.list_processes(connection, STALE_S, PROCESSES)
        queues = operating.list_queue_lines(connection)
        waiting = operating.list_waiting_jobs(connection, WAITING)
    return page.render("service.html", processes=processes, queues=queues, waiting=waiting)


@router.post("/service/queues/{name}/{action}")
def change_queue(page: Page, form: Form, name: Annotated[str, PathParameter(max_length=63)], action: str) -> Response:
    """Pause or resume a queue."""
    if action not in ("pause", "resume"):
        raise HTTPException(404, f"{action[:30]}: not known; permitted: pause, resume")
    with page.database() as connection:
        operating.set_paused(connection, name, paused=action == "pause")
    return page.go_to("/service")
