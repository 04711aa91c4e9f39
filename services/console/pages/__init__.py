"""The pages, one file a subject. A new page is a router in a file of its own and a line in PAGES."""

from fastapi import APIRouter

from services.console.pages import (
    compare,
    data_sets,
    errors,
    events,
    health,
    images,
    jobs,
    many,
    ratings,
    recall,
    releases,
    runs,
    service,
    session,
    submit,
)

PAGES: tuple[APIRouter, ...] = (
    health.router, session.router, jobs.router, images.router, ratings.router, errors.router, many.router,
    submit.router, releases.router, service.router, compare.router,
    events.router, runs.router, recall.router, data_sets.router,
)  # fmt: skip
