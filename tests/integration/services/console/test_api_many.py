"""The API does what the pages do: many jobs at once, changes, ratings, searches, checks of requests."""

import io
import json
import zipfile
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.services.console.test_api import REQUEST, assert_problem, open_api, submitted
from tests.support.console import make_job
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

LATER = "2100-01-01T00:00:00Z"
ITEMS = [{"class_label": 1, "caption": "a fox"}, {"class_label": 2, "caption": "an owl"}]


def test_tags_priority_and_pauses_are_given_shown_filtered_by_and_changed(stack: Stack) -> None:
    api = open_api(stack)
    with submitted(stack, api, run_after=LATER, tags=["b-tag", "a-tag"], priority=2) as job:
        shown = api.get(f"/api/v1/jobs/{job}").json()
        assert (shown["tags"], shown["priority"], shown["paused"]) == (["a-tag", "b-tag"], 2, False)
        (listed,) = api.get("/api/v1/jobs", params={"tag": ["a-tag", "b-tag"], "since": "2000-01-01"}).json()["jobs"]
        assert (listed["id"], listed["tags"], listed["paused"]) == (job, ["a-tag", "b-tag"], False)
        for none in (
            {"tag": "c-tag"},
            {"tag": "a-tag", "until": "2000-01-01T00:00:00"},
            {"tag": "a-tag", "queue": "x"},
        ):
            assert api.get("/api/v1/jobs", params=none).json()["jobs"] == []
        changed = api.patch(
            f"/api/v1/jobs/{job}", json={"priority": 9, "paused": True, "tags": ["z"], "deadline": None}
        )
        assert (changed.status_code, changed.json()) == (202, {"change_requested": [job]})
        with stack.engine("migrator").begin() as connection:
            asked = connection.scalar(text("SELECT changes FROM change_requests WHERE job_id = :id"), {"id": job})
            connection.execute(text("DELETE FROM change_requests WHERE job_id = :id"), {"id": job})
        assert asked == {"priority": 9, "paused": True, "tags": ["z"], "deadline": None}
        for wrong, words in (({"priority": 101}, "priority: 101"), ({}, "changes"), ({"state": "failed"}, "state")):
            assert_problem(api.patch(f"/api/v1/jobs/{job}", json=wrong), 422, words)
    assert_problem(
        api.post("/api/v1/jobs", json={"model": "tiny", "request": REQUEST, "tags": ["x" * 101]}), 422, "tags"
    )


def test_what_is_done_to_many_jobs_is_counted_first(stack: Stack) -> None:
    make_tenant(stack, "api-many")
    failed = [str(make_job(stack, 2, tenant="api-many", failures=[0], tags=["old"])) for _ in range(3)]
    api, body = open_api(stack, "api-many"), {"action": "retry", "tags": ["old"]}
    assert api.post("/api/v1/jobs/many", json={**body, "count_only": True}).json() == {"jobs": 3}
    assert api.post("/api/v1/jobs/many", json={**body, "until": "2001-01-01T00:00:00"}).json() == {"jobs": 0}
    assert api.post("/api/v1/jobs/many", json={**body, "states": ["succeeded"]}).json() == {"jobs": 0}
    assert api.post("/api/v1/jobs/retry", json={"ids": failed[:1]}).json() == {"revisions": {failed[0]: 2}}
    assert_problem(api.post("/api/v1/jobs/retry", json={"ids": failed[:2]}), 409, failed[0])
    assert api.post("/api/v1/jobs/many", json=body).json() == {"jobs": 2}
    assert api.post("/api/v1/jobs/many", json={"action": "cancel", "tags": ["old"]}).json() == {"jobs": 3}
    assert_problem(api.post("/api/v1/jobs/many", json={"action": "priority"}), 422, "priority")
    assert_problem(api.post("/api/v1/jobs/many", json={"action": "drop"}), 422, "action")
    assert_problem(open_api(stack, "api-many", scopes=("read",)).post("/api/v1/jobs/many", json=body), 403, "'submit'")
    with stack.engine("migrator").begin() as connection:
        for table in ("cancel_requests", "work"):
            connection.execute(text(f"DELETE FROM {table} WHERE job_id = ANY(CAST(:ids AS uuid[]))"), {"ids": failed})


def test_images_are_rated_filtered_explained_and_taken_as_a_set(stack: Stack) -> None:
    make_tenant(stack, "api-images")
    job = make_job(stack, 4, tenant="api-images", items=ITEMS, failures=[3], pictures=4)
    api = open_api(stack, "api-images")
    path = f"/api/v1/jobs/{job}/outputs"
    assert api.put(f"{path}/1/rating", json={"rating": 5}).status_code == 204
    assert_problem(api.put(f"{path}/3/rating", json={"rating": 5}), 404)
    assert_problem(api.put(f"{path}/1/rating", json={"rating": 6}), 422, "rating")
    cases: tuple[tuple[dict[str, Any], list[Any]], ...] = (
        ({"rating": 4}, [(1, 5)]),
        ({"q": "OWL"}, [(2, None), (3, None)]),
        ({"label": "1", "seed": 8}, [(1, 5)]),
    )
    for query, expected in cases:
        outputs = api.get(path, params=query).json()["outputs"]
        assert [(one["index"], one["rating"]) for one in outputs] == expected, query
    shown = api.get(f"{path}/1").json()
    assert (shown["fields"], shown["rating"], shown["seed"]) == (ITEMS[0], 5, 8)
    assert shown["request"]["items"] == [{**ITEMS[0], "seed": 8}]
    assert api.get(f"{path}/1/128.webp").headers["content-type"] == "image/webp"
    with zipfile.ZipFile(io.BytesIO(api.get(f"/api/v1/jobs/{job}/picks.zip").content)) as archive:
        assert json.loads(archive.read("metadata.jsonl"))["text"] == "a fox"
    (reason,) = api.get(f"/api/v1/jobs/{job}/reasons").json()["reasons"]
    assert reason == {"example": "class_label: cannot be used", "images": 1, "items": 1, "first": [[3, 1]]}
    assert api.put(f"{path}/1/rating", json={"rating": 0}).status_code == 204
    assert api.get(f"{path}/1").json()["rating"] is None


def test_a_search_is_walked_by_cursors(stack: Stack) -> None:
    make_tenant(stack, "api-search")
    jobs = [str(make_job(stack, 4, tenant="api-search", items=ITEMS, pictures=1)) for _ in range(3)][::-1]
    api, seen, cursor = open_api(stack, "api-search"), list[tuple[str, int]](), None
    while True:
        query: dict[str, Any] = {"q": "owl", "limit": 2} | ({"cursor": cursor} if cursor else {})
        answer = api.get("/api/v1/images", params=query).json()
        seen += [(one["job_id"], one["index"]) for one in answer["images"]]
        if (cursor := answer["next"]) is None:
            break
    assert seen == [(job, 2) for job in jobs]
    for wrong in ("x", "0-0.1", f"{jobs[0]}.x"):
        assert_problem(api.get("/api/v1/images", params={"cursor": wrong}), 422, "cursor")


def test_a_request_is_checked_before_it_is_submitted(stack: Stack) -> None:
    api = open_api(stack, scopes=("read",))
    answer = api.post("/api/v1/checks", json={"model": "tiny@production", "request": {**REQUEST, "images_per_item": 3}})
    assert answer.status_code == 200, answer.text
    tiny = answer.json()["release"]
    assert {**answer.json(), "seconds": None} == {
        "release": tiny, "items": 1, "images": 3, "evaluations": 12, "seconds": None,
        "stages": [{"model": tiny, "evaluations": 12}],
    }  # fmt: skip
    then = {"model": "tiny@production", "strength": 0.5, "steps": 4, "guidance_scale": 1}
    answer = api.post("/api/v1/checks", json={"model": tiny, "request": {**REQUEST, "then": [then]}})
    assert [stage["evaluations"] for stage in answer.json()["stages"]] == [4, 2]
    assert (answer.json()["evaluations"], answer.json()["seconds"]) == (6, None)
    for request, words in (
        ({"items": [{"class_label": 99}], "steps": 0}, ["items[0].class_label: 99", "steps: 0"]),
        ({"input_uri": "inputs/default/x"}, ["input_uri", "dry_run"]),
        ({}, ["items: missing"]),
        (
            {**REQUEST, "then": [{"model": "nothing"}]},
            ["then[0].model: 'nothing' is not allowed; permitted: ", "tiny@"],
        ),
        ({**REQUEST, "then": [{**then, "steps": 0}]}, ["then[0].steps: 0 is not allowed"]),
        ({**REQUEST, "image": "no file!", "strength": 0.5}, ["image: 'no file!' is not a base64-encoded image"]),
    ):
        assert_problem(api.post("/api/v1/checks", json={"model": "tiny@production", "request": request}), 422, *words)
    assert_problem(api.post("/api/v1/checks", json={"model": "nothing", "request": REQUEST}), 404, "nothing")
    assert {"name": "default", "paused": False} in api.get("/api/v1/queues").json()["queues"]


@pytest.mark.parametrize("path", ["", "/reasons", "/picks.zip", "/outputs/0", "/outputs/0/128.webp"])
def test_another_tenants_images_do_not_exist(stack: Stack, path: str) -> None:
    make_tenant(stack, "api-stranger")
    job = make_job(stack, 1)
    assert_problem(open_api(stack, "api-stranger").get(f"/api/v1/jobs/{job}{path}"), 404, "belongs to another tenant")
    rated = open_api(stack, "api-stranger").put(f"/api/v1/jobs/{job}/outputs/0/rating", json={"rating": 1})
    assert_problem(rated, 404)


def test_a_manifest_is_that_of_an_ended_job(stack: Stack) -> None:
    key = "outputs/default/api-manifest/manifest.json"
    job, api = make_job(stack, 1, manifest_key=key), open_api(stack)
    assert_problem(api.get(f"/api/v1/jobs/{job}/manifest"), 404, "does not exist")
    stack.store().put(key, b'{"archives": []}', content_type="application/json")
    assert api.get(f"/api/v1/jobs/{job}/manifest").json() == {"archives": []}
    assert_problem(api.get(f"/api/v1/jobs/{make_job(stack, 1)}/manifest"), 409, "no manifest")


def test_a_check_knows_what_the_tenant_may_read_write_and_make(stack: Stack) -> None:
    """Planning rejects the same requests with the same words."""
    make_tenant(stack, "api-limited", max_job_images=10, write_prefixes=["outputs/api-limited", "prints"])
    api = open_api(stack, "api-limited")

    def check(**fields: Any) -> Any:
        return api.post("/api/v1/checks", json={"model": "tiny@production", "request": {**REQUEST, **fields}})

    bucket = stack.store().bucket
    assert_problem(check(images_per_item=11), 422, "images are not allowed; permitted: at most 10")
    assert check(output_prefix="prints/today").status_code == 200
    assert_problem(check(output_prefix="outputs/default"), 422, "permitted: under outputs/api-limited, prints")
    for image, words in (
        (f"s3://{bucket}/inputs/default/one.png", "permitted: under inputs/api-limited"),
        ("s3://elsewhere/inputs/api-limited/one.png", f"permitted: {bucket}"),
    ):
        assert_problem(check(image=image, strength=0.5), 422, "image: ", words)
    assert check(image=f"s3://{bucket}/inputs/api-limited/one.png", strength=0.5).status_code == 200
