"""Data sets: which versions there are, what is in them, and which releases were trained on them."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as PathParameter
from fastapi.responses import Response

from services.console.data_sets import SPLITS, SetFolder, count_classes, find_set_folders
from services.console.page import Page, PageRequest
from services.registry.data_sets import list_data_sets

router = APIRouter()

Fingerprint = Annotated[str, PathParameter(pattern="^[0-9a-zA-Z]{1,128}$")]
COUNTED = ("found", "good", "converted", "dropped_objects", "without_text", "without_label", "texts_cut")


@router.get("/data")
def list_sets(page: Page) -> Response:
    """Show the sets that visible releases were trained on, and to operators those in the folder of training runs."""
    with page.database() as connection:
        trained_on = {one.fingerprint: one for one in list_data_sets(connection)}
    folders = _folders(page)
    others = [fingerprint for fingerprint in folders if fingerprint not in trained_on]
    sets = [(one, _describe(trained_on.get(one), folders.get(one)), folders.get(one)) for one in [*others, *trained_on]]
    return page.render("data_sets.html", sets=sets, trained_on=trained_on)


@router.get("/data/{fingerprint}")
def show_set(page: Page, fingerprint: Fingerprint) -> Response:
    """Show a version of a set."""
    with page.database() as connection:
        found = list_data_sets(connection, fingerprint)
    folder = _folders(page).get(fingerprint)
    trained = found[0] if found else None
    data = _describe(trained, folder) or page.missing(f"Data set {fingerprint[:80]}")
    report = folder.report() if folder else {}
    return page.render(
        "data_set.html", fingerprint=fingerprint, data=data, trained=trained, folder=folder, report=report,
        counted={name: report[name] for name in COUNTED if report.get(name)}, splits=SPLITS,
        classes=count_classes(report, data.get("classes", ())),
    )  # fmt: skip


@router.get("/data/{fingerprint}/{split}.png")
def send_sheet(page: Page, fingerprint: Fingerprint, split: str) -> Response:
    """Send a contact sheet of a split."""
    folder = _folders(page).get(fingerprint)
    body = folder.sheet(split) if folder is not None and split in SPLITS else None
    if body is None:
        page.missing(f"Split {split[:80]} of data set {fingerprint[:80]}")
    return Response(body, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


def _folders(page: PageRequest) -> dict[str, SetFolder]:
    """Return the sets in the folder of training runs by fingerprint; those belong to no tenant."""
    root = page.parts.runs if page.viewer.is_operator else None
    return {} if root is None else {one.fingerprint: one for one in find_set_folders(root)}


def _describe(trained: Any, folder: SetFolder | None) -> Mapping[str, Any]:
    return folder.description if folder is not None else trained.data if trained is not None else {}
