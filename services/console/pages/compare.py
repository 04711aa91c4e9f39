"""Two releases, or the images of two jobs with the same seeds, side by side."""

import uuid
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import Connection

from services.console import submission
from services.console.forms import Form
from services.console.making import find_model
from services.console.page import EMPTY_IS_NONE, Page, PageRequest
from services.console.paging import Slice, cut
from services.errors import quote
from services.job_queue import clients, pairs
from services.job_queue import viewing as jobs
from services.job_queue.job_filters import list_jobs
from services.registry import viewing
from services.registry.comparison import comparable_fields
from services.registry.releases import request_rules
from training.experiments.fields import differences

router = APIRouter()

Reference = Annotated[str, Query(max_length=200)]
Number = Annotated[int, Field(ge=-1, le=2**31 - 1)]
PAIRS_PER_PAGE = 60
LOOKED_AT = 500  # jobs that one is compared with
SEED, IMAGES_PER_ITEM = "0", "4"  # of the images that are made to compare


@router.get("/compare")
def compare_releases(page: Page, a: Reference = "", b: Reference = "") -> Response:
    """Show two releases side by side: their sheets, their figures under one fingerprint, and which settings differ."""
    with page.database() as connection:
        references = viewing.list_references(connection)
        if not (a and b):
            return page.render("compare.html", references=references, names=(a, b), releases=None)
        releases = [viewing.find_reference(connection, one) or page.missing(f"Release {quote(one)}") for one in (a, b)]
        figures = viewing.compare_figures(connection, releases[0].id, releases[1].id)
    changes = differences(*(comparable_fields(one.manifest) for one in releases))
    return page.render(
        "compare.html", references=[*dict.fromkeys([a, b, *references])], names=(a, b), releases=releases,
        figures=figures, changes=changes, control=submission.find_control(request_rules(releases[0].manifest)),
        defaults={"seed": SEED, "images_per_item": IMAGES_PER_ITEM}, key=uuid.uuid4(),
    )  # fmt: skip


@router.post("/compare")
def sample_both(page: Page, form: Form) -> Response:
    """Submit one request to both releases, with the same seed, and show the images side by side.

    A form that is sent twice submits one job to each.
    """
    names = [str(form.get(name, "")) for name in ("a", "b")]
    fields = {**submission.EMPTY, "chosen": [str(one) for one in form.getlist("chosen")]}
    fields |= {name: str(form.get(name, "")) for name in ("lines", "seed", "images_per_item")}
    fields["seed"] = fields["seed"] or SEED
    made: list[uuid.UUID] = []
    with page.database() as connection:
        for name in names:
            release = viewing.find_reference(connection, name) or page.missing(f"Release {quote(name)}")
            draft = submission.draft(connection, fields, release, page.parts.store.bucket)
            if draft.checked is None:
                mistakes = "; ".join(line for lines in draft.errors.values() for line in lines)
                raise HTTPException(422, f"{name}: {mistakes}")
            key = f"{form.get('key', '')}.{len(made)}.{submission.name_draft(draft, release, '')}"
            job = {"model": name, "request": draft.request, "idempotency_key": key}
            made.append(clients.submit_job(connection, job))
    return page.go_to(f"/compare/jobs?a={made[0]}&b={made[1]}")


@router.get("/compare/jobs")
def compare_jobs(
    page: Page,
    a: uuid.UUID,
    b: uuid.UUID | None = None,
    after: Annotated[Number | None, EMPTY_IS_NONE] = None,
    before: Number | None = None,
) -> Response:
    """Show the images of two jobs that have the same index, item and seed, or first which job to compare with."""
    with page.database() as connection:
        if b is None:
            return _choose(page, connection, a)
        both = [clients.find_summary(connection, one) or page.missing(f"Job {one}") for one in (a, b)]
        start = -1 if after is None else after
        found = pairs.list_pairs(connection, a, b, PAIRS_PER_PAGE + 1, after=start, before=before)
        shown: Slice[pairs.Pair] = cut(
            found, PAIRS_PER_PAGE, backwards=before is not None, is_first=after in (None, -1)
        )
        items = jobs.find_items(connection, a, (pair.item for pair in shown.entries))
        same_items = pairs.have_same_items(connection, a, b)
        settings = [jobs.find_settings(connection, one) for one in (a, b)]
        models = [find_model(connection, one) for one in both]
    return page.render(
        "pairs.html", jobs=both, models=models, pairs=shown, items=items, same_items=same_items,
        changes=differences(*settings),
    )  # fmt: skip


def _choose(page: PageRequest, connection: Connection, a: uuid.UUID) -> Response:
    """Show which jobs may have the same images: the newest ones of as many images."""
    job = clients.find_summary(connection, a) or page.missing(f"Job {a}")
    others = [one for one in list_jobs(connection, LOOKED_AT) if one.total == job.total and one.id != a]
    shown = [(one, find_model(connection, one)) for one in others[:PAIRS_PER_PAGE]]
    return page.render("pair_with.html", job=job, model=find_model(connection, job), others=shown)
