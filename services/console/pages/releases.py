"""Releases: the list, one with its lineage and figures, and the moves of its aliases."""

from pathlib import Path
from typing import Annotated, NoReturn

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, Response

from services.console.evaluations import find_nearest_sheet, nearness_of
from services.console.forms import Form
from services.console.page import Page, PageRequest
from services.console.paging import Slice, cut
from services.console.thumbnails import SIZES, read_image
from services.job_queue.outputs import Output
from services.registry import viewing
from services.registry.releases import ReleaseRow
from services.storage.layout import blob_key

router = APIRouter()

Name = Annotated[str, PathParameter(max_length=63)]
Version = Annotated[int, PathParameter(ge=1, le=10**9)]
Id = Annotated[int, Query(ge=0, le=2**63 - 1)]

RELEASES_PER_PAGE = 40
PNG = "image/png"
CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}  # the address names the content


@router.get("/releases")
def list_releases(
    page: Page,
    q: Annotated[str, Query(max_length=63)] = "",
    retired: bool = False,
    before: Id | None = None,
    after: Id | None = None,
) -> Response:
    """Show releases, newest first."""
    with page.database() as connection:
        found = viewing.list_release_lines(
            connection, RELEASES_PER_PAGE + 1, before=before, after=after, words=q.strip(), retired=retired
        )
    releases: Slice[viewing.ReleaseLine] = cut(
        found, RELEASES_PER_PAGE, backwards=after is not None, is_first=before is None
    )
    return page.render("releases.html", releases=releases, filters={"q": q, "retired": retired or None})


@router.get("/releases/{name}/{version}")
def show_release(page: Page, name: Name, version: Version) -> Response:
    """Show a release: what it makes, what it was made of, and how good it is."""
    with page.database() as connection:
        release = viewing.find_visible(connection, name, version) or _missing(page, name, version)
        parents = viewing.find_parents(connection, release)
        evaluations = viewing.list_visible_evaluations(connection, release.id)
        aliases = viewing.find_aliases(connection, name)
        moves = viewing.list_moves(connection, name)
    return page.render(
        "release.html", release=release, parents=parents, aliases=aliases, moves=moves[::-1],
        earlier=viewing.rollback_targets(moves),
        figures=[(one, viewing.figures(one.metrics)) for one in evaluations],
        nearness=nearness_of(evaluations[0].metrics) if evaluations else None,
        nearest_sheet=_nearest_sheet(page, release) is not None,
        sheets=[file for file in release.manifest["files"] if file.endswith(".png")],
    )  # fmt: skip


@router.get("/releases/{name}/{version}/files/{file}.png")
def send_sheet(page: Page, name: Name, version: Version, file: str) -> Response:
    """Send an image of a release."""
    with page.database() as connection:
        release = viewing.find_visible(connection, name, version) or _missing(page, name, version)
    return Response(read_image(page.parts.store, _sheet(page, release, f"{file}.png")), headers=CACHED, media_type=PNG)


@router.get("/releases/{name}/{version}/nearest")
def send_nearest(page: Page, name: Name, version: Version) -> Response:
    """Send the samples of the release's evaluation above their nearest training images, to operators."""
    with page.database() as connection:
        release = viewing.find_visible(connection, name, version) or _missing(page, name, version)
    sheet = _nearest_sheet(page, release) or page.missing(f"An evaluation of {name}@{version} with a sheet")
    return FileResponse(sheet, media_type=PNG)


@router.get("/releases/{name}/{version}/{size}.webp")
def send_thumbnail(page: Page, name: Name, version: Version, size: int) -> Response:
    """Send a small copy of a release's sample sheet."""
    if size not in SIZES:
        page.missing(f"A copy of {size} pixels (permitted: {', '.join(map(str, SIZES))})")
    with page.database() as connection:
        release = viewing.find_visible(connection, name, version) or _missing(page, name, version)
    copy = page.parts.thumbnails.get(page.parts.store, _sheet(page, release, viewing.SHEET), size)
    return Response(copy, media_type="image/webp", headers=CACHED)


@router.post("/releases/{name}/{version}/promote")
def promote(page: Page, form: Form, name: Name, version: Version) -> Response:
    """Point an alias at a release."""
    with page.database() as connection:
        release = viewing.find_visible(connection, name, version) or _missing(page, name, version)
        alias, expected = _chosen_alias(form)
        viewing.promote(connection, release, alias, expected=expected, viewer=page.viewer.name)
    return page.go_to(f"/releases/{name}/{version}")


@router.post("/releases/{name}/{version}/roll-back")
def roll_back(page: Page, form: Form, name: Name, version: Version) -> Response:
    """Point an alias of the release's name back at the release before."""
    with page.database() as connection:
        viewing.find_visible(connection, name, version) or _missing(page, name, version)
        alias, expected = _chosen_alias(form)
        viewing.rollback(connection, name, alias, expected=expected, viewer=page.viewer.name)
    return page.go_to(f"/releases/{name}/{version}")


def _missing(page: PageRequest, name: str, version: int) -> NoReturn:
    page.missing(f"Release {name}@{version}")


def _nearest_sheet(page: PageRequest, release: ReleaseRow) -> Path | None:
    """Return the file; training images belong to no tenant, so there is none for a viewer who is no operator."""
    root = page.parts.runs
    return None if root is None or not page.viewer.is_operator else find_nearest_sheet(root, release.digest)


def _sheet(page: PageRequest, release: ReleaseRow, file: str) -> Output:
    """Return an image of a release as if a job had made it, which is then read within the same limits."""
    record = release.manifest["files"].get(file) or page.missing(f"{file} of {release.name}@{release.version}")
    return Output(0, 0, None, key=blob_key(record["sha256"]), sha256=record["sha256"])


def _chosen_alias(form: Form) -> tuple[str, int | None]:
    """Return the alias that a form moves, and the id of the release at which the viewer saw it, None for none."""
    alias = str(form.get("alias", ""))
    seen = str(form.get(f"seen.{alias}", ""))
    return alias, int(seen) if seen.isdecimal() and len(seen) < 19 else None
