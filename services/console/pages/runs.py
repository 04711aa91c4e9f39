"""Training runs, for operators: curves while they train, and sample sheets from step to step."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import FileResponse, Response

from services.console import runs
from services.console.page import Page, PageRequest

router = APIRouter()


@router.get("/runs")
def list_runs(page: Page) -> Response:
    """Show the runs below the folder of the settings, the last changed first."""
    root = _root(page)
    return page.render("runs.html", runs=[] if root is None else runs.find_runs(root), root=root)


@router.get("/runs/sheets/{file}")
def send_sheet(page: Page, file: str, run: Annotated[str, Query(max_length=1000)]) -> Response:
    """Send a sample sheet of a run."""
    path = _find(page, run).sheet(file) or page.missing(f"{file[:80]} of {run}")
    return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@router.get("/runs/{name:path}")
def show_run(page: Page, name: str, at: Annotated[int | None, Query(ge=0, le=10**6)] = None) -> Response:
    """Show a run: its curves, its sheets of one step, and its settings. at: which of the steps, the last by default."""
    run = _find(page, name)
    sheets = run.sheets()
    steps = sorted({step for known in sheets.values() for step in known})
    chosen = None if not steps else steps[-1] if at is None else steps[min(at, len(steps) - 1)]
    return page.render(
        "run.html", run=run, charts=run.charts(), sheets=sheets, steps=steps, chosen=chosen,
        settings=runs.read_settings(run),
    )  # fmt: skip


def _root(page: PageRequest) -> Path | None:
    if not page.viewer.is_operator:
        raise HTTPException(403, "Training runs belong to no tenant, so operators alone see them.")
    return page.parts.runs


def _find(page: PageRequest, name: str) -> runs.Run:
    root = _root(page)
    return (root and runs.find_run(root, name)) or page.missing(f"Run {name[:200]}")
