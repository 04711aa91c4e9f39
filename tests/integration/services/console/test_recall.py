"""Finding images again, within a job and over all jobs of the tenant, and making them again."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from services.job_queue import recall
from services.job_queue.seeds import find_ranges_of_seed
from services.job_requests.image_spec import image_spec
from tests.support.console import make_job, open_console
from tests.support.console_releases import releases_called, send_form, submit_checked
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

ANIMALS: list[dict[str, Any]] = [
    {"class_label": 1, "caption": 'a "quick" fox', "id": "f-1"}, {"class_label": 2, "caption": "an owl at 100% speed"},
    {"class_label": "owl", "caption": "a slow FOX"}, {"class_label": 12},
]  # fmt: skip
FIELDS: Any = {"guidance_interval": [0, 1], "spacing": "trailing", "guidance_rescale": 0}  # of a plan
NAMED = {
    "type": "object",
    "properties": {
        "class_label": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 2}, {"enum": ["fox", "emu", "owl"]}]}
    },
    "required": ["class_label"],
    "additionalProperties": False,
    "guided": True,
}


def shown(page: str) -> list[int]:
    return [int(index) for index in re.findall(r'<li id="image-(\d+)"', page)]


def found(page: str) -> list[tuple[str, int]]:
    return [(job, int(index)) for job, index in re.findall(r'<li id="found-([0-9a-f-]{36})-(\d+)"', page)]


def test_a_gallery_is_filtered_by_words_and_class(stack: Stack) -> None:
    make_tenant(stack, "recall-words")
    with releases_called(stack, "recall-named", conditions=NAMED) as (release,):
        job = make_job(stack, 8, tenant="recall-words", items=ANIMALS, failures=[5], release_id=release.id)
        console = open_console(stack, "recall-words")
        for query, expected in (
            ({"q": "fox"}, [0, 1, 4, 5]),
            ({"q": "fox slow"}, [4, 5]),
            ({"q": '"quick'}, [0, 1]),
            ({"q": "100%"}, [2, 3]),
            ({"q": "0%s"}, []),
            ({"q": "f-1"}, [0, 1]),
            ({"q": "fox", "failed": "true"}, [5]),
            ({"label": "owl"}, [2, 3, 4, 5]),
            ({"label": "2"}, [2, 3, 4, 5]),
            ({"label": "emu"}, [0, 1]),
            ({"label": "12"}, [6, 7]),
            ({"label": "nothing"}, []),
            ({"q": "caption"}, []),
            ({"q": "fox", "item": "2"}, [4, 5]),
            ({"q": "fox", "after": "1"}, [4, 5]),
            ({"q": "fox", "before": "4"}, [0, 1]),
            ({"label": "owl", "seed": "12"}, [5]),
            ({"item": "3"}, [6, 7]),
            ({"item": str(2**31 - 1)}, []),
        ):
            page = console.get(f"/jobs/{job}", params=query)
            assert (page.status_code, shown(page.text)) == (200, expected), query


def test_items_of_an_object_have_no_words(stack: Stack) -> None:
    make_tenant(stack, "recall-object")
    plan = json.dumps({"input": {"key": "inputs/x"}, "input_uri": "inputs/x", "images_per_item": 1, "seed": 7})
    job = make_job(stack, 3, tenant="recall-object", plan=plan, request=json.dumps({"input_uri": "inputs/x"}))
    console = open_console(stack, "recall-object")
    page = console.get(f"/jobs/{job}").text
    assert 'name="label"' not in page
    assert shown(console.get(f"/jobs/{job}?q=fox").text) == []
    assert found(console.get("/recall?seed=9").text) == [(str(job), 2)]
    assert found(console.get("/recall?q=inputs").text) == []
    assert "/submit" not in console.get(f"/jobs/{job}/images/1").text.split("<main")[1]
    assert console.get(f"/submit?job={job}&image=1").status_code == 404
    assert console.get(f"/submit?job={job}").status_code == 404


def test_what_was_made_is_found_by_words_tag_class_seed_release_and_date(stack: Stack) -> None:
    make_tenant(stack, "recall-all")
    with releases_called(stack, "recall-release", conditions=NAMED) as (release,):
        old = make_job(stack, 8, tenant="recall-all", items=ANIMALS, failures=[0], tags=["autumn"])
        new = make_job(stack, 4, tenant="recall-all", items=ANIMALS, model="recall-release@production",
                       release_id=release.id)  # fmt: skip
        console = open_console(stack, "recall-all")
        today = datetime.now(UTC).date()
        cases: tuple[tuple[dict[str, Any], list[tuple[uuid.UUID, int]]], ...] = (
            ({}, [(new, 0), (new, 1), (new, 2), (new, 3), (old, 1), (old, 2), (old, 4), (old, 6)]),
            ({"q": "fox"}, [(new, 0), (new, 2), (old, 1), (old, 4)]),
            ({"tag": "autumn", "q": "fox"}, [(old, 1), (old, 4)]),
            ({"seed": 9}, [(new, 2), (old, 2)]),
            ({"seed": 9, "q": "slow"}, [(new, 2)]),
            ({"seed": 7}, [(new, 0)]),
            ({"model": "recall-release@1", "label": "owl"}, [(new, 1), (new, 2)]),
            ({"model": "recall-release", "q": "owl"}, [(new, 1), (new, 2)]),
            ({"model": "tiny", "q": "owl"}, [(old, 2), (old, 4)]),
            ({"model": "no such"}, []),
            ({"since": today + timedelta(2)}, []),
            ({"until": today - timedelta(2)}, []),
            ({"since": today - timedelta(2), "until": today + timedelta(2), "seed": 8}, [(new, 1), (old, 1)]),
            ({"since": "0001-01-01", "until": "9999-12-31", "seed": 8}, [(new, 1), (old, 1)]),
        )
        for query, expected in cases:
            page = console.get("/recall", params=query)
            assert (page.status_code, found(page.text)) == (200, [(str(job), index) for job, index in expected]), query
        assert console.get("/recall?since=yesterday").status_code == 422
    make_tenant(stack, "recall-other")
    empty = open_console(stack, "recall-other")
    for path, words in (("/recall", "no images yet"), ("/jobs", "no jobs yet"), ("/recall?q=fox", "Nothing was found")):
        body = empty.get(path).text
        assert (found(body), words in body) == ([], True), path
        assert ('<a href="/submit">Submit' in body) is ("yet" in words)


def test_a_search_is_bounded_and_goes_on(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tenant(stack, "recall-bounded")
    jobs = [make_job(stack, 4, tenant="recall-bounded", items=ANIMALS, pictures=1) for _ in range(5)][::-1]
    console = open_console(stack, "recall-bounded")
    every = [(str(job), index) for job in jobs for index in (0, 2)]
    late = {"TIME_S": -1.0}
    limits: tuple[dict[str, Any], ...] = (
        {"LOOKED_AT": 2},
        {"BYTES": 1, **late},
        {"JOBS": 1, **late},
        {"IMAGES": 5, **late},
    )
    for limit, query in zip(limits, ("q=fox", "q=fox", "q=fox", "seed=9"), strict=True):
        with monkeypatch.context() as patch:
            for name, value in limit.items():
                patch.setattr(recall, name, value)
            seen, address, pages = list[tuple[str, int]](), f"/recall?{query}", 0
            while address:
                page, pages = console.get(address).text, pages + 1
                seen += found(page)
                following = re.search(r'<a rel="next" href="([^"]+)"', page)
                address = following[1].replace("&amp;", "&") if following else ""
        assert seen == (every if query == "q=fox" else [(str(job), 2) for job in jobs])
        assert pages > 2
    with monkeypatch.context() as patch:
        patch.setattr("services.console.pages.recall.FOUND_PER_PAGE", 3)
        seen, address = [], "/recall?q=fox"
        while address:
            page = console.get(address).text
            seen += found(page)
            following = re.search(r'<a rel="next" href="([^"]+)"', page)
            address = following[1].replace("&amp;", "&") if following else ""
    assert seen == every


def test_the_images_of_a_seed_are_looked_up_by_what_the_plan_says(stack: Stack) -> None:
    make_tenant(stack, "recall-seeds")
    items = [{"class_label": 1, "seed": 100}, {"class_label": 2}, {"class_label": 3, "seed": 8}]
    job = make_job(stack, 9, tenant="recall-seeds", items=items)
    with stack.engine("migrator").begin() as connection:
        plan: Any = connection.execute(text("SELECT plan FROM jobs WHERE id = :id"), {"id": job}).scalar_one()
        specs = [image_spec(FIELDS | plan, items[index // 3], index) for index in range(9)]
        connection.execute(
            text("UPDATE outputs SET seed = :seed WHERE job_id = :job AND index = :index"),
            [{"job": job, "seed": spec.seed, "index": spec.index} for spec in specs],
        )
        ranges = {seed: find_ranges_of_seed(connection, job, seed) for seed in (10, 100, 2**62)}
    assert ranges == {10: [(3, 4), (8, 9)], 100: [(0, 1)], 2**62: []}  # not the job's nine
    console = open_console(stack, "recall-seeds")
    for seed in range(6, 13):
        expected = [spec.index for spec in specs if spec.seed == seed]
        assert shown(console.get(f"/jobs/{job}?seed={seed}").text) == expected
        assert found(console.get(f"/recall?seed={seed}").text) == [(str(job), index) for index in expected]
    assert shown(console.get(f"/jobs/{job}?seed=10&item=2").text) == [8]


def submitted(stack: Stack, tenant: str) -> Any:
    with stack.engine("migrator").begin() as connection:
        query = text("SELECT model, request, tags, priority FROM jobs WHERE tenant = :tenant ORDER BY id DESC LIMIT 1")
        return connection.execute(query, {"tenant": tenant}).one()


def test_an_image_is_made_again_with_its_seed_release_and_settings(stack: Stack) -> None:
    make_tenant(stack, "recall-again")
    with releases_called(stack, "recall-maker", conditions=NAMED) as (release,):
        job = make_job(stack, 8, tenant="recall-again", items=[{"class_label": "owl", "id": "x"}] * 2, tags=["a", "b"],
                       release_id=release.id, model="recall-maker@production")  # fmt: skip
        console = open_console(stack, "recall-again")
        page = console.get(f"/jobs/{job}/images/6").text
        links = [one.replace("&amp;", "&") for one in re.findall(r'href="(/submit\?job=[^"]+)"', page)]
        assert links == [f"/submit?job={job}&image=6", f"/submit?job={job}&image=6&varied=true"]
        expected = {
            "items": [{"class_label": "owl", "seed": 13}],
            "steps": 30,
            "guidance_scale": 1.5,
        }  # all but defaults
        for link, more in zip(links, ({}, {"variations": 0.3, "images_per_item": 8}), strict=True):
            form = console.get(link).text
            assert "recall-maker@1" in form
            answer = submit_checked(console, send_form(console, link, "/submit", **fields_of(form)), **fields_of(form))
            assert answer.url.path.startswith("/jobs/"), answer.text
            row = submitted(stack, "recall-again")
            assert (row.model, row.tags, row.request) == ("recall-maker@1", ["a", "b"], {**expected, **more})
    stranger = open_console(stack, "recall-words")
    assert stranger.get(f"/submit?job={job}&image=6").status_code == 404
    assert console.get(f"/submit?job={uuid.UUID(int=1)}").status_code == 404


def test_all_images_of_a_job_are_made_again_with_one_thing_changed(stack: Stack) -> None:
    make_tenant(stack, "recall-again")
    with releases_called(stack, "recall-all-again", conditions=NAMED) as (release,):
        items = [{"class_label": "owl", "id": "x"}, {"class_label": "fox"}]
        job = make_job(stack, 4, tenant="recall-again", items=items, release_id=release.id, tags=["a"],
                       model="recall-all-again@production")  # fmt: skip
        console, link = open_console(stack, "recall-again"), f"/submit?job={job}"
        assert f'href="{link}"' in console.get(f"/jobs/{job}").text
        form = fields_of(console.get(link).text)
        assert (form["seed"], form["steps"], form["tags"]) == ("7", "30", "a")
        form |= {"steps": "40"}
        submit_checked(console, send_form(console, link, "/submit", **form), **form)
        row = submitted(stack, "recall-again")
        assert (row.model, row.request) == (
            "recall-all-again@1", {"items": items, "images_per_item": 2, "seed": 7, "steps": 40}
        )  # fmt: skip


def test_an_image_between_two_seeds_is_not_varied_and_a_chain_names_its_releases(stack: Stack) -> None:
    make_tenant(stack, "recall-again")
    with releases_called(stack, "recall-walk", conditions=NAMED) as (release,):
        items = [{"class_label": "owl", "seed": 1, "toward": {"seed": 2, "share": share}} for share in (0, 1)]
        plan = {
            "items": items,
            "images_per_item": 1,
            "seed": 1,
            "steps": 5,
            "then": [{"model": "recall-walk@1", "strength": 1}],
        }
        job = make_job(stack, 2, tenant="recall-again", items=items, release_id=release.id, model="recall-walk@1",
                       plan=json.dumps(plan))  # fmt: skip
        console = open_console(stack, "recall-again")
        page = console.get(f"/jobs/{job}/images/1").text
        assert "Make this again" in page
        assert "With variations" not in page
        assert "<dd><bdi>recall-walk@1</bdi>, then <bdi>recall-walk@1</bdi></dd>" in page
        form = console.get(f"/submit?job={job}&image=1&varied=true").text
        assert "variations" not in fields_of(form)["more"]


def fields_of(form: str) -> dict[str, str]:
    """What a browser would send of a form: the values of its text fields, and of lists that are not at their first."""
    inputs = dict(re.findall(r'<input name="([^"]+)"[^>]* value="([^"]*)"', form))
    texts = dict(re.findall(r'<textarea name="([^"]+)"[^>]*>([^<]*)</textarea>', form))
    selects = re.findall(r'<select name="(solver|spacing|format)">(.*?)</select>', form, re.DOTALL)
    chosen = {name: re.findall(r"<option selected>([^<]*)", body) for name, body in selects}
    values = {**inputs, **texts, **{name: one[0] for name, one in chosen.items() if one}}
    return {name: value.replace("&#34;", '"') for name, value in values.items()}


def test_tags_priority_and_further_settings_are_given_in_the_form(stack: Stack) -> None:
    make_tenant(stack, "recall-form")
    with releases_called(stack, "recall-form", conditions=NAMED):
        console, page = open_console(stack, "recall-form"), "/submit?model=recall-form@1"
        fields = {"chosen": ["owl"], "tags": " red, blue,red ,", "priority": "-3", "more": '{"guidance_rescale": 0.7}'}
        checked = send_form(console, page, "/submit", **fields)
        assert submit_checked(console, checked, **fields).url.path.startswith("/jobs/")
        row = submitted(stack, "recall-form")
        assert (row.tags, row.priority, row.request["guidance_rescale"]) == (["blue", "red"], -3, 0.7)
        for wrong, field, words in (
            ({"tags": "x" * 101}, "tags", "at most 16, of at most 100 characters"),
            ({"priority": "101"}, "priority", "-100 to 100"),
            ({"priority": "high"}, "priority", "&#39;high&#39; is not allowed"),
            ({"more": "{"}, "more", "not JSON"),
            ({"more": "[]"}, "more", "not a JSON object"),
            ({"more": '{"seed": 1}'}, "more", "seed: has a field of its own"),
            ({"more": '{"etta": 1}'}, "more", "etta"),
            ({"more": '{"eta": 7}'}, "more", "eta: 7"),
            ({"more": '{"output_prefix": "outputs/other"}'}, "more", "output_prefix"),
        ):
            answer = send_form(console, page, "/submit", **{**fields, **wrong}, submit="1")
            said = re.findall(rf'id="error-{field}-1">([^<]*)<', answer.text)
            assert said, (wrong, answer.text)
            assert words in said[0], (wrong, said)
        assert submitted(stack, "recall-form") == row
