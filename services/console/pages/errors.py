"""The errors of a job's images by reason, and actions on the job: cancel, retry, pause, resume and priority."""

import uuid
from functools import partial

from fastapi import APIRouter
from fastapi.responses import Response

from services.console.bulk import Action, act
from services.console.forms import Form
from services.console.page import Page
from services.job_queue import clients
from services.job_queue.failures import LOOKED_AT, list_reasons

router = APIRouter()

REASONS = 100


@router.get("/jobs/{job_id}/errors")
def show_errors(page: Page, job_id: uuid.UUID) -> Response:
    """Show why images of a job failed, the most frequent reason first."""
    with page.database() as connection:
        job = clients.find_summary(connection, job_id) or page.missing(f"Job {job_id}")
        reasons = list_reasons(connection, job_id, REASONS)
    return page.render("errors.html", job=job, reasons=reasons, looked_at=LOOKED_AT)


def change_job(action: Action, page: Page, form: Form, job_id: uuid.UUID) -> Response:
    """Cancel, retry, pause or resume a job, or change its priority."""
    with page.database() as connection:
        act(connection, action, [job_id], priority=str(form.get("priority", "")))
    return page.go_to(f"/jobs/{job_id}")


for action in Action:  # an address each: a parameter would stand for the page /jobs/ID/errors as well
    router.post(f"/jobs/{{job_id}}/{action}")(partial(change_job, action))
