"""Two releases side by side, and the images that two jobs made with the same seeds."""

import re
import uuid

from sqlalchemy import text

from services.registry.evaluations import record_evaluation
from tests.integration.services.console.test_api import open_api
from tests.support.console import make_job, open_console
from tests.support.console_releases import releases_called, send_form
from tests.support.stack import Stack
from tests.support.tenants import make_tenant


def test_figures_compare_under_one_fingerprint_and_settings_that_differ_are_listed(stack: Stack) -> None:
    with releases_called(stack, "compared", 2), releases_called(stack, "compared-wide", latent_shape=[2, 16, 16]):
        with stack.engine("publisher").begin() as connection:
            for reference, fingerprint, value in (
                ("compared@1", "a" * 64, 0.25), ("compared@2", "a" * 64, 0.5), ("compared-wide@1", "b" * 64, 9.0)
            ):  # fmt: skip
                record_evaluation(connection, reference, fingerprint, {"recall": value})
        console = open_console(stack)
        page = console.get("/compare", params={"a": "compared@1", "b": "compared@2"}).text
        assert re.search(r"recall</td>.*0\.25.*0\.5.*\+0\.25", page)
        page = console.get("/compare", params={"a": "compared@1", "b": "compared-wide@1"}).text
        assert "so their metrics cannot be compared" in page
        assert re.search(r"<code>latent_shape</code></td><td>\[2, 8, 8\]</td><td>\[2, 16, 16\]", page)
        assert console.get("/compare", params={"a": "compared@1", "b": "no-such"}).status_code == 404


def test_both_releases_are_asked_for_the_same_images(stack: Stack) -> None:
    make_tenant(stack, "compares")
    with releases_called(stack, "compared-both", 2):
        console = open_console(stack, "compares")
        page = "/compare?a=compared-both@1&b=compared-both@2"
        hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', console.get(page).text))
        fields = {**hidden, "chosen": ["1", "3"], "images_per_item": "2", "seed": ""}
        answer, again = (console.post("/compare", data=fields) for _ in range(2))  # a double click
        assert answer.url.path == "/compare/jobs"
        assert answer.url == again.url
        assert "No pair is made yet" in answer.text
        with stack.engine("migrator").begin() as connection:
            query = text("SELECT model, request FROM jobs WHERE tenant = 'compares' ORDER BY id")
            jobs = connection.execute(query).all()
        request = {"items": [{"class_label": 1}, {"class_label": 3}], "images_per_item": 2, "seed": 0}
        assert jobs == [("compared-both@1", request), ("compared-both@2", request)]
        refused = send_form(console, page, "/compare", chosen=["1"], images_per_item="0")
        assert refused.status_code == 422
        assert "images_per_item: 0 is not allowed" in refused.text


def test_pairs_have_the_same_index_item_and_seed(stack: Stack) -> None:
    make_tenant(stack, "compares-jobs")
    left, right = (make_job(stack, 70, tenant="compares-jobs", failures=failures) for failures in ((), (2,)))
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE outputs SET seed = 1 WHERE job_id = :job AND index = 1"), {"job": right})
    console = open_console(stack, "compares-jobs")
    first = console.get("/compare/jobs", params={"a": str(left), "b": str(right)}).text
    assert first.count("<li>") == 60
    assert [f'/jobs/{right}/images/{index}"' in first for index in (0, 1, 2)] == [True, False, True]
    assert first.count('class="error">failed') == 1
    second = console.get("/compare/jobs", params={"a": str(left), "b": str(right), "after": 60}).text
    assert second.count("<li>") == 9
    with_it = f"/api/v1/jobs/{left}/pairs"
    api = open_api(stack, "compares-jobs")
    page = api.get(with_it, params={"other": str(right), "limit": 2}).json()
    assert [(pair["index"], pair["right"] is None) for pair in page["pairs"]] == [(0, False), (2, True)]
    assert (page["next"], page["same_items"], page["settings"]) == ("2", True, [])
    rest = api.get(with_it, params={"other": str(right), "cursor": page["next"]}).json()
    assert (len(rest["pairs"]), rest["next"]) == (67, None)
    assert api.get(with_it, params={"other": str(uuid.uuid4())}).status_code == 404
    make_tenant(stack, "compares-not")
    assert open_api(stack, "compares-not").get(with_it, params={"other": str(left)}).status_code == 404
    guest = open_console(stack, "compares-not")
    assert guest.get("/compare/jobs", params={"a": str(left), "b": str(right)}).status_code == 404


def test_a_job_to_compare_with_is_chosen_among_those_of_as_many_images(stack: Stack) -> None:
    make_tenant(stack, "compares-which")
    with releases_called(stack, "compared-with", 2) as releases:
        jobs = [make_job(stack, count, tenant="compares-which", pictures=1, release_id=one.id)
                for count, one in ((3, releases[0]), (3, releases[1]), (4, releases[1]))]  # fmt: skip
        console = open_console(stack, "compares-which")
        address = f"/compare/jobs?a={jobs[0]}"
        assert f'href="{address}"' in console.get(f"/jobs/{jobs[0]}").text
        page = console.get(address).text
        links = [one.replace("&amp;", "&") for one in re.findall(r'href="(/compare/jobs[?][^"]*b=[^"]*)"', page)]
        assert links == [f"{address}&b={jobs[1]}"]
        assert "compared-with@2" in page
        both = console.get(links[0]).text
        assert re.findall(r"compared-with@[12](?=</bdi></a></strong>)", both) == ["compared-with@1", "compared-with@2"]
        assert both.count(">identical<") == 3
        assert "data-live" not in both
        with stack.engine("migrator").begin() as connection:
            connection.execute(text("UPDATE jobs SET finished_at = NULL WHERE id = :id"), {"id": jobs[1]})
        assert re.findall(r'id="([^"]+)" data-live="([^"]+)"', console.get(links[0]).text) == [
            ("job-2", str(jobs[1])), ("pairs", str(jobs[1]))
        ]  # fmt: skip
