"""The form that submits a job."""

import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy import Connection
from starlette.datastructures import UploadFile

from services.console import submission
from services.console.checking import expect_seconds
from services.console.forms import Form
from services.console.making import find_making, find_making_of_all
from services.console.page import Page, PageRequest
from services.errors import quote
from services.job_queue import clients
from services.job_queue.prospects import list_permitted_queues
from services.job_requests.again import request_variations
from services.job_requests.sampling_fields import LIGHT
from services.job_requests.schema import DEFAULTS, defaults_of, request_schema
from services.registry import viewing
from services.registry.releases import request_rules

router = APIRouter()

FIELDS = request_schema({LIGHT: True})["properties"]
CHOICES = {name: FIELDS[name]["enum"] for name in ("solver", "spacing", "decoder", "format")}


@dataclass(frozen=True)
class Target:
    """What a job has besides its request. key: of the form: what is sent twice, as it was, is one job."""

    model: str
    queue: str
    key: str


@router.get("/submit")
def show_form(
    page: Page,
    model: Annotated[str, Query(max_length=200)] = "",
    job: uuid.UUID | None = None,
    image: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    varied: bool = False,
) -> Response:
    """Show the form of a release, or first which releases there are.

    job, image: the form is filled in with what makes this image again, or all of the job's. varied: with variations of
    the image.
    """
    key = str(uuid.uuid4())
    with page.database() as connection:
        if job is None:
            return _show(page, connection, Target(model, "", key), submission.Draft(submission.EMPTY, {}))
        if image is None:
            made = find_making_of_all(connection, job) or page.missing(f"Job {job} with its items")
        else:
            made = find_making(connection, job, image) or page.missing(f"Image {image} of job {job} with its item")
        is_varied = varied and image is not None and made.can_vary
        request = request_variations(made.request) if is_varied else made.request
        fields = submission.fill_in(request) | {"tags": ", ".join(made.tags)}
        return _show(page, connection, Target(made.model, "", key), submission.Draft(fields, {}))


@router.post("/submit")
def submit(page: Page, form: Form) -> Response:
    """Check a request, or submit it if it is the one that was checked, which the button names."""
    fields = {**submission.EMPTY, **{name: str(form[name]) for name in submission.TEXTS if name in form}}
    fields["chosen"] = [str(one) for one in form.getlist("chosen")]
    upload = form.get("upload")
    if isinstance(upload, UploadFile) and upload.filename:
        try:
            fields["file"] = upload.file.read().decode()
        except UnicodeDecodeError as error:
            fields["unread"] = f"file: not UTF-8 from byte {error.start} on; save it as UTF-8"
    target = Target(*(str(form.get(name, "")) for name in ("model", "queue", "key")))
    with page.database() as connection:
        release = viewing.find_reference(connection, target.model) or page.missing(f"Release {quote(target.model)}")
        draft = submission.draft(connection, fields, release, page.parts.store.bucket)
        name = submission.name_draft(draft, release, target.queue)
        if draft.checked is None or form.get("submit") != name:
            return _show(page, connection, target, draft, name=name, has_changed="submit" in form)
        key = f"{target.key}.{name}"
        job = {"model": target.model, "queue": target.queue, "idempotency_key": key, "request": draft.request}
        job_id = clients.submit_job(connection, {**job, **draft.columns})
    return page.go_to(f"/jobs/{job_id}")


def _show(
    page: PageRequest,
    connection: Connection,
    target: Target,
    draft: submission.Draft,
    *,
    name: str = "",
    has_changed: bool = False,
) -> Response:
    references = viewing.list_references(connection)
    release = viewing.find_reference(connection, target.model) if target.model else None
    if target.model and release is None:
        page.missing(f"Release {quote(target.model)}")
    if target.model and target.model not in references:
        references = [target.model, *references]
    rules = None if release is None else request_rules(release.manifest)
    seconds = expect_seconds(connection, target.model, draft.checked) if draft.checked else None
    return page.render(
        "submit.html", target=target, references=references, release=release, draft=draft, choices=CHOICES,
        control=rules and submission.find_control(rules), rules=rules,
        defaults=DEFAULTS if rules is None else defaults_of(rules),
        queues=list_permitted_queues(connection), seconds=seconds, name=name, has_changed=has_changed,
    )  # fmt: skip
