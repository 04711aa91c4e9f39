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
    assert_problem(answer, 405, "PUT: not allowed here; permitted: GET, POST.")
    assert answer.headers["allow"] == "GET, POST"
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
