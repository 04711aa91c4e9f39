"""Releases that the tenant may use."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.console.api.access import Reading, TokenRoute
from services.console.api.bodies import MOST_TOGETHER, ReleaseInFull, ReleaseInList, ReleaseList
from services.registry import viewing, visible_releases

router = APIRouter(prefix="/releases", tags=["releases"], route_class=TokenRoute)


@router.get("")
def list_releases(
    call: Reading,
    limit: Annotated[int, Query(ge=1, le=MOST_TOGETHER)] = 100,
    cursor: Annotated[str, Query(pattern=r"^[a-z0-9_-]{1,63}@[0-9]{1,9}$", description="`next`")] = "_@0",
) -> ReleaseList:
    """List releases by name, each name's newest version first."""
    name, _, version = cursor.partition("@")
    with call.database() as connection:
        found = visible_releases.list_releases(connection, limit + 1, after=(name, int(version)))
    releases = [ReleaseInList(**vars(one)) for one in found[:limit]]
    following = f"{releases[-1].name}@{releases[-1].version}" if len(found) > limit else None
    return ReleaseList(releases=releases, next=following)


@router.get("/{name}/{version}")
def show_release(call: Reading, name: str, version: int) -> ReleaseInFull:
    """Show a release with its release.json."""
    with call.database() as connection:
        found = visible_releases.find_release(connection, name, version) or call.missing(f"Release {name}@{version}")
        row = viewing.find_visible(connection, name, version)
        evaluations = viewing.list_visible_evaluations(connection, row.id) if row else []
    release, manifest = found
    figures = viewing.figures(evaluations[0].metrics) if evaluations else {}
    return ReleaseInFull(**vars(release), manifest=manifest, figures=figures)
