"""Jobs: the list, and the gallery of one job."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from services.console.making import MOST_WORDS, find_classes
from services.console.page import EMPTY_IS_NONE, Page
from services.console.paging import Slice, cut
from services.job_queue import chains, clients, gallery, ratings, viewing
from services.job_queue.job_filters import JobFilter
from services.job_queue.states import JobState

router = APIRouter()

Number = Annotated[int, Field(ge=-1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Stars = Annotated[int, Field(ge=1, le=5)]

Tags = Annotated[list[Annotated[str, Field(max_length=100)]], Query(default_factory=list, max_length=16)]
Words = Annotated[str, Query(max_length=200)]

JOBS_PER_PAGE, IMAGES_PER_PAGE = 40, 120


@router.get("/jobs")
def list_jobs(
    page: Page,
    state: Annotated[list[JobState], Query(default_factory=list)],
    tag: Tags,
    q: Words = "",
    before: uuid.UUID | None = None,
    after: uuid.UUID | None = None,
) -> Response:
    """Show jobs, newest first."""
    which = JobFilter(state, [one for one in tag if one], words=q.strip())
    with page.database() as connection:
        found = viewing.list_job_lines(connection, JOBS_PER_PAGE + 1, before=before, after=after, which=which)
    jobs: Slice[viewing.JobLine] = cut(found, JOBS_PER_PAGE, backwards=after is not None, is_first=before is None)
    filters = {"state": state, "tag": which.tags, "q": q}
    return page.render("jobs.html", jobs=jobs, filters=filters, states=list(JobState))


@router.get("/jobs/{job_id}")
def show_gallery(
    page: Page,
    job_id: uuid.UUID,
    failed: Annotated[bool | None, EMPTY_IS_NONE] = None,
    item: Annotated[Number | None, EMPTY_IS_NONE] = None,
    seed: Annotated[Seed | None, EMPTY_IS_NONE] = None,
    rating: Annotated[Stars | None, EMPTY_IS_NONE] = None,
    q: Words = "",
    label: Words = "",
    after: Annotated[Number | None, EMPTY_IS_NONE] = None,
    before: Number | None = None,
    start: Annotated[Number | None, EMPTY_IS_NONE] = None,
) -> Response:
    """Show the images of a job. start: the first one to show."""
    after = after if start is None else start - 1
    with page.database() as connection:
        job = clients.find_summary(connection, job_id) or page.missing(f"Job {job_id}")
        classes = find_classes(connection, job_id)
        words, labels = q.split()[:MOST_WORDS], classes.labels_of(label.strip())
        chosen = gallery.ImageFilter(failed, item, seed, rating, words, labels)
        progress = clients.find_progress(connection, job_id)
        found = gallery.list_images(
            connection,
            job_id,
            IMAGES_PER_PAGE + 1,
            after=-1 if after is None else after,
            before=before,
            chosen=chosen,
        )
        images = cut(found, IMAGES_PER_PAGE, backwards=before is not None, is_first=after in (None, -1))
        items = viewing.find_items(connection, job_id, (image.item for image in images.entries))
        stars = ratings.find_ratings(connection, job_id, *images.span("index"))
        picks = ratings.count_ratings(connection, job_id, rating or 1)
        has_items = gallery.has_items(connection, job_id)
        stages = chains.list_stages(connection, job_id)
    filters = {"failed": failed, "item": item, "seed": seed, "rating": rating, "q": q, "label": label}
    return page.render(
        "gallery.html", job=job, progress=progress, images=images, items=items, filters=filters, stars=stars,
        picks=picks, classes=classes.names, has_items=has_items, stages=stages,
    )  # fmt: skip
