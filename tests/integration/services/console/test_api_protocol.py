"""HTTP itself as the API has it: methods, addresses, media types, ETags, and parameters that are misspelt."""

import gzip

import pytest
from starlette.testclient import TestClient

from tests.integration.services.console.test_api import assert_problem, open_api
from tests.support.console import make_job
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def api(stack: Stack) -> TestClient:
    make_tenant(stack, "api-protocol")
    return open_api(stack, "api-protocol")


def test_an_image_has_its_sha256_as_etag_and_head_has_the_headers_of_get(stack: Stack, api: TestClient) -> None:
    job = make_job(stack, 1, tenant="api-protocol")
    address = f"/api/v1/jobs/{job}/outputs/0"
    sha256 = api.get(address).json()["sha256"]
    image = api.get(f"{address}/file")
    assert image.headers["etag"] == f'"{sha256}"'
    for given, status in ((f'"{sha256}"', 304), (f'"x", W/"{sha256}"', 304), ('"x"', 200), ("", 200)):
        answer = api.get(f"{address}/file", headers={"If-None-Match": given})
        assert (answer.status_code, len(answer.content)) == (status, 0 if status == 304 else len(image.content))
    for path in (f"{address}/file", address, "/api/v1/jobs"):
        head, got = api.head(path), api.get(path)
        assert (head.status_code, head.content, dict(head.headers)) == (200, b"", dict(got.headers))
    assert api.head("/api/v1/nothing").status_code == 404


def test_what_the_framework_refuses_is_refused_in_words(api: TestClient) -> None:
    assert_problem(api.get("/api/v1/nothing"), 404, "/api/v1/nothing")
    assert_problem(api.get("/api/v1/jobs/", follow_redirects=False), 404, "/api/v1/jobs/")
    answer = api.put("/api/v1/jobs")
    assert_problem(answer, 405, "PUT: not allowed here; permitted: GET, HEAD, POST.")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    jobs = "/api/v1/jobs"
    assert_problem(api.post(jobs, content=b"{", headers=JSON), 422, "body: not JSON", "at character 1")
    assert_problem(api.post(jobs, content=b"{}", headers={"Content-Type": "text/plain"}), 415,
                   "Content-Type: 'text/plain' is not allowed; permitted: application/json")  # fmt: skip
    packed = {**JSON, "Content-Encoding": "gzip"}
    assert_problem(api.post(jobs, content=gzip.compress(b"{}"), headers=packed), 415, "Content-Encoding: 'gzip'")
    for body in (b"[" * 100_000, b'{"model": "\xe9"}'):
        assert_problem(api.post(jobs, content=body, headers=JSON), 400, "permitted: JSON in UTF-8")


def test_a_filter_that_is_misspelt_is_not_ignored(api: TestClient) -> None:
    assert_problem(api.get("/api/v1/jobs?tags=spring"), 422, "tags: not a parameter", "queue, since, state, tag, until")
    assert_problem(api.get("/api/v1/queues?limit=1"), 422, "limit: not a parameter", "permitted: none")


def test_a_key_is_not_for_many_jobs(api: TestClient) -> None:
    body = {"jobs": [{"model": "tiny@production", "request": {"items": [{"class_label": 1}]}}]}
    answer = api.post("/api/v1/jobs/batch", json=body, headers={"Idempotency-Key": "night"})
    assert_problem(answer, 422, "Idempotency-Key", "jobs[n].idempotency_key")
    assert api.get("/api/v1/jobs").json()["jobs"][0]["total"] == 1  # only the job of the images


@pytest.mark.parametrize("value", ["-1", "0", "1700000000", "1.5", " 7 "])
def test_a_number_is_not_a_time(api: TestClient, value: str) -> None:
    """It would be seconds since 1970, or milliseconds if it is large, and a filter that finds all jobs or none."""
    for path in ("jobs", "images"):
        for name in ("since", "until"):
            answer = api.get(f"/api/v1/{path}", params={name: value})
            assert_problem(answer, 422, f"{name}: not allowed; permitted: a", "2026-01-31", f"given: {value!r}")
    assert api.get("/api/v1/jobs", params={"since": "2026-01-31T18:00"}).status_code == 200
    assert api.get("/api/v1/images", params={"since": "2026-01-31"}).status_code == 200
    assert api.get("/api/v1/jobs", params={"since": "yesterday"}).status_code == 422


def test_values_of_a_body_are_as_strict_as_those_of_sql(api: TestClient) -> None:
    job = {"model": "tiny@production", "request": {"items": [{"class_label": 1}]}}
    for field, value in (("priority", True), ("priority", "5"), ("deadline", 4102444800), ("run_after", "4102444800")):
        for answer in (
            api.post("/api/v1/jobs", json={**job, field: value}),
            api.post("/api/v1/jobs/batch", json={"jobs": [{**job, field: value}]}),
        ):
            assert_problem(answer, 422, f"{field}: not allowed; permitted: a")
    existing = api.get("/api/v1/jobs").json()["jobs"][0]["id"]
    for changes, words in (
        ({"paused": "yes"}, "paused: input should be a valid boolean"),
        ({"paused": 1}, "paused: input should be a valid boolean"),
        ({"priority": True}, "priority: not allowed; permitted: an integer"),
        ({"deadline": 4102444800}, "deadline: not allowed; permitted: a time"),
        ({"paused": None, "tags": ["a"]}, "paused: null is not allowed; permitted: true or false"),
        ({"priority": None, "tags": ["a"]}, "priority: null is not allowed; permitted: an integer from -100 to 100"),
    ):
        assert_problem(api.patch(f"/api/v1/jobs/{existing}", json=changes), 422, words)
    rated = api.put(f"/api/v1/jobs/{existing}/outputs/0/rating", json={"rating": True})
    assert_problem(rated, 422, "rating: not allowed; permitted: an integer")
