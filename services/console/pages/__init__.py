"""The pages, one file a subject. A new page is a router in a file of its own and a line in PAGES."""

from fastapi import APIRouter

from services.console.pages import events, health, images, jobs, session

PAGES: tuple[APIRouter, ...] = (health.router, session.router, jobs.router, images.router, events.router)
