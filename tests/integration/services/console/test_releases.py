"""Releases in the console: found, shown with what they were made of, and promoted by operators alone."""

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from services.registry.aliases import promote
from services.registry.evaluations import record_evaluation
from tests.support.console import open_console, picture
from tests.support.console_releases import releases_called, send_form
from tests.support.stack import Stack
from tests.support.tenants import make_tenant


def alias_of(stack: Stack, name: str) -> int:
    with stack.engine("migrator").begin() as connection:
        query = text("SELECT version FROM aliases JOIN releases ON releases.id = release_id "
                     "WHERE aliases.name = :name AND alias = 'production'")  # fmt: skip
        return int(connection.execute(query, {"name": name}).scalar_one())


def test_a_release_is_shown_with_its_parent_and_the_numbers_of_its_evaluation(stack: Stack) -> None:
    with releases_called(stack, "page-parent") as (parent,):
        lineage = {"autoencoder": parent.digest, "initial": "f" * 64}
        with releases_called(stack, "page-child", lineage=lineage):
            with stack.engine("publisher").begin() as connection:
                metrics = {"recall": 0.25, "frechet_distance": 3.5, "data_fingerprint": "x", "images": 7}
                record_evaluation(connection, "page-child@1", "a" * 64, metrics)
            console = open_console(stack)
            page = console.get("/releases/page-child/1").text
            assert '<a href="/releases/page-parent/1">page-parent@1</a>' in page
            assert "not published or not permitted to you" in page
            assert page.index("frechet distance</dt><dd>3.5") < page.index("recall</dt><dd>0.25")
            assert "images</dt><dd>7" not in page
            assert console.get("/releases/page-child/1/files/samples.png").headers["content-type"] == "image/png"
            assert console.get("/releases/page-child/1/256.webp").headers["content-type"] == "image/webp"
            assert console.get("/releases/page-child/1/files/unet.png").status_code == 404


@pytest.mark.parametrize(("share", "warns"), [(0.0, False), (0.25, True)])
def test_samples_that_copy_training_images_are_warned_of(
    stack: Stack, tmp_path: Path, share: float, warns: bool
) -> None:
    with releases_called(stack, "page-near") as (release,):
        metrics = {
            "nearest_training_image": 0.5, "nearest_training_image_of_held_out_images": 0.75,
            "nearer_than_any_held_out_image": share, "release_digest": release.digest,
            "nearest_pairs": {"distances": [0.125, 0.5], "closest_held_out_image": 0.25},
        }  # fmt: skip
        with stack.engine("publisher").begin() as connection:
            record_evaluation(connection, "page-near@1", "a" * 64, metrics)
        (tmp_path / "evaluations" / "near").mkdir(parents=True)
        (tmp_path / "evaluations/near/metrics.json").write_text(json.dumps(metrics))
        (tmp_path / "evaluations/near/nearest.png").write_bytes(picture(5))
        viewer, operator = (open_console(stack, is_operator=may, console_runs=tmp_path) for may in (False, True))
        page = operator.get("/releases/page-near/1").text
        assert ("may copy its training images" in page) == warns
        assert page.count('title="nearer than any held-out image"') == 1
        assert operator.get("/releases/page-near/1/nearest").content == picture(5)
        seen = viewer.get("/releases/page-near/1").text
        assert ("may copy" in seen, "/nearest" in seen) == (warns, False)
        assert viewer.get("/releases/page-near/1/nearest").status_code == 404


def test_the_list_is_cut_by_keys_and_leaves_retired_releases_out(stack: Stack) -> None:
    with releases_called(stack, "page-many", 43) as rows:
        with stack.engine("migrator").begin() as connection:
            retire = "UPDATE releases SET retired_at = now(), retired_by = 'ada' WHERE id = :id"
            connection.execute(text(retire), {"id": rows[10].id})
        console = open_console(stack)
        first = console.get("/releases", params={"q": "page-many"}).text
        assert first.count('class="card"') == 40
        assert f"before={rows[2].id}" in first
        second = console.get("/releases", params={"q": "page-many", "before": rows[2].id}).text
        assert [f"/page-many/{version}" in second for version in (1, 2, 3)] == [True, True, False]
        assert f"after={rows[1].id}" in second
        assert 'href="/releases/page-many/11"' not in first + second
        with_retired = console.get("/releases", params={"q": "page-many", "retired": "true"}).text
        assert 'href="/releases/page-many/11"' in with_retired


def test_an_operator_promotes_and_rolls_back(stack: Stack) -> None:
    with releases_called(stack, "page-moved", 2):
        console = open_console(stack, is_operator=True)
        for version in (1, 2):
            path = f"/releases/page-moved/{version}"
            moved = send_form(console, path, f"{path}/promote", alias="production")
            assert (moved.status_code, alias_of(stack, "page-moved")) == (200, version)
        back = send_form(console, "/releases/page-moved/2", "/releases/page-moved/2/roll-back")
        assert (back.status_code, alias_of(stack, "page-moved")) == (200, 1)
        assert "(rolled back)" in back.text
        assert "default by" in back.text  # who: the viewer, and the console's login


def test_a_move_is_refused_if_the_alias_has_moved_since_the_page_was_made(stack: Stack) -> None:
    with releases_called(stack, "page-raced", 3):
        console = open_console(stack, is_operator=True)
        path = "/releases/page-raced/2"
        with stack.engine("publisher").begin() as connection:
            promote(connection, "page-raced@3", "production")
        stale = send_form(console, path, f"{path}/promote", alias="production", **{"seen.production": "1"})
        assert (stale.status_code, alias_of(stack, "page-raced")) == (409, 3)
        assert "page-raced@production was moved meanwhile. Look at the release again." in stale.text
        wrong = send_form(console, path, f"{path}/promote", alias="Not Allowed")
        assert wrong.status_code == 422
        assert "permitted: a-z, _ and -" in wrong.text


def test_others_neither_see_the_forms_nor_can_send_them(stack: Stack) -> None:
    make_tenant(stack, "page-guest", permitted_releases=["page-closed"])
    with releases_called(stack, "page-closed"), releases_called(stack, "page-hidden"):
        console = open_console(stack, "page-guest")
        page = console.get("/releases/page-closed/1")
        assert (page.status_code, "/promote" in page.text) == (200, False)
        token = page.text.split('name="csrf" value="')[1].split('"')[0]
        sent = console.post("/releases/page-closed/1/promote", data={"csrf": token, "alias": "production"})
        assert sent.status_code == 403
        assert "can be moved by operators alone" in sent.text
        assert console.get("/releases/page-hidden/1").status_code == 404
        assert console.get("/releases/page-hidden/1/files/samples.png").status_code == 404
        assert "page-hidden" not in console.get("/releases").text
