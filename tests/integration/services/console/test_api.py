"""The HTTP API: tokens, jobs, images and errors, with the words of the database."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from services.console.rates import Rates
from services.job_queue import tokens
from tests.support.commands import Darkroom
from tests.support.console import make_job, open_console
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

REQUEST = {"items": [{"class_label": 1}], "steps": 2}
HOUR = timedelta(hours=1)


def open_api(
    stack: Stack, tenant: str = "default", scopes: tuple[str, ...] = ("read", "submit"), lifetime: timedelta = HOUR
) -> TestClient:
    """A client with a new token and without a session."""
    with stack.engine("migrator").begin() as connection:
        _, secret = tokens.create_token(connection, tenant, "a test", scopes, lifetime)
    client = open_console(stack)
    client.cookies.clear()
    client.headers.update({"Authorization": f"Bearer {secret}", "Accept": "application/json"})
    return client


@contextmanager
def submitted(stack: Stack, api: TestClient, **columns: Any) -> Iterator[str]:
    """A job that was submitted through the API, until the end of the test."""
    answer = api.post("/api/v1/jobs", json={"model": "tiny@production", "request": REQUEST, **columns})
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    assert answer.headers["Location"] == f"/api/v1/jobs/{job_id}"
    yield job_id
    with stack.engine("migrator").begin() as connection:
        for table, column in (("cancel_requests", "job_id"), ("work", "job_id"), ("jobs", "id")):
            connection.execute(text(f"DELETE FROM {table} WHERE {column} = :id"), {"id": job_id})


def assert_problem(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    for word in words:
        assert word in body["detail"], body


def test_a_job_is_submitted_shown_listed_and_cancelled(stack: Stack) -> None:
    api = open_api(stack)
    with submitted(stack, api, run_after="2100-01-01T00:00:00Z", priority=3) as job:
        shown = api.get(f"/api/v1/jobs/{job}").json()
        assert (shown["state"], shown["priority"], shown["settings"]["steps"]) == ("submitted", 3, 2)
        assert shown["waits_because"].startswith("it starts at 2100")
        assert job in [one["id"] for one in api.get("/api/v1/jobs", params={"state": "submitted"}).json()["jobs"]]
        assert api.post(f"/api/v1/jobs/{job}/cancel").json() == {"cancel_requested": [job]}
        assert api.post("/api/v1/jobs/cancel", json={"ids": [job]}).json() == {"cancel_requested": [job]}
        assert api.get(f"/api/v1/jobs/{job}").json()["waits_because"] == "it is being cancelled"
        assert_problem(api.post(f"/api/v1/jobs/{job}/retry"), 409, "only what is partial, failed or cancelled")


def test_text_that_postgres_cannot_hold_is_refused(stack: Stack) -> None:
    """With 503, programs would send it again and again."""
    api, words = open_api(stack), "text: NUL and lone surrogates are not allowed"
    for path in ("jobs?q=%00", "jobs?tag=%00", "jobs?model=%00", "releases/%00/1"):
        assert_problem(api.get(f"/api/v1/{path}"), 422, words)
    for tag in ("\\u0000", "\\ud800"):
        body = f'{{"action": "cancel", "tags": ["{tag}"]}}'
        answer = api.post("/api/v1/jobs/many", content=body, headers={"Content-Type": "application/json"})
        assert_problem(answer, 422, words)


def test_a_key_submits_one_job(stack: Stack) -> None:
    api, key = open_api(stack), uuid.uuid4().hex
    with submitted(stack, api, idempotency_key=key) as job:
        body = {"model": "tiny@production", "request": REQUEST}
        again = api.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": key})
        assert (again.status_code, again.json()["id"]) == (201, job)
        other = {**body, "request": {**REQUEST, "steps": 3}}
        assert_problem(api.post("/api/v1/jobs", json=other, headers={"Idempotency-Key": key}), 409, key)
        both = {**body, "idempotency_key": "another"}
        assert_problem(api.post("/api/v1/jobs", json=both, headers={"Idempotency-Key": key}), 422, "idempotency_key")


def test_lists_are_walked_by_cursors(stack: Stack) -> None:
    make_tenant(stack, "walking")
    jobs = [str(make_job(stack, 5, tenant="walking", failures=[2], pictures=2)) for _ in range(5)][::-1]
    api = open_api(stack, "walking")
    seen, cursor = [], None
    while True:
        page = api.get("/api/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["jobs"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == jobs
    first = api.get(f"/api/v1/jobs/{jobs[0]}/outputs", params={"limit": 3}).json()
    rest = api.get(f"/api/v1/jobs/{jobs[0]}/outputs", params={"limit": 3, "cursor": first["next"]}).json()
    assert [one["index"] for one in first["outputs"] + rest["outputs"]] == [0, 1, 2, 3, 4]
    assert rest["next"] is None
    failed = api.get(f"/api/v1/jobs/{jobs[0]}/outputs", params={"failed": True}).json()["outputs"]
    assert [(one["index"], one["error"]) for one in failed] == [(2, "class_label: cannot be used")]
    file = api.get(f"/api/v1/jobs/{jobs[0]}/outputs/0/file")
    assert (file.status_code, file.content[:4]) == (200, b"\x89PNG")


def test_releases_are_those_that_the_tenant_may_use(stack: Stack) -> None:
    api = open_api(stack)
    found = api.get("/api/v1/releases").json()["releases"]
    (tiny,) = [one for one in found if one["name"] == "tiny" and "production" in one["aliases"]]
    assert api.get(f"/api/v1/releases/tiny/{tiny['version']}").json()["manifest"]["name"] == "tiny"
    assert_problem(api.get("/api/v1/releases/tiny/999999"), 404, "tiny@999999")
    make_tenant(stack, "nothing", permitted_releases=["nothing"])
    assert open_api(stack, "nothing").get("/api/v1/releases").json() == {"releases": [], "next": None}
    assert_problem(open_api(stack, "nothing").get(f"/api/v1/releases/tiny/{tiny['version']}"), 404)


def test_other_tenants_jobs_do_not_exist(stack: Stack) -> None:
    make_tenant(stack, "outsider")
    job, api = make_job(stack, 1, failures=[0]), open_api(stack, "outsider")
    for path in ("", "/outputs", "/outputs/0/file"):
        assert_problem(api.get(f"/api/v1/jobs/{job}{path}"), 404, "belongs to another tenant")
    for path in ("cancel", "retry"):
        assert_problem(api.post(f"/api/v1/jobs/{job}/{path}"), 404, f"you have no job {job}")
    assert_problem(api.post("/api/v1/jobs/cancel", json={"ids": [str(job)]}), 404, str(job))


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"queue": "nowhere"}, 422, ["nowhere"]),
        ({"priority": 101}, 422, ["priority: 101 is not allowed; permitted: an integer from -100 to 100"]),
        ({"priority": "x"}, 422, ["priority: not allowed; permitted: an integer", "'x'"]),
        ({"deadline": "soon"}, 422, ["deadline", "soon"]),
        ({"request": []}, 422, ["request"]),
        ({"colour": "red"}, 422, ["colour"]),
        ({"model": ""}, 422, ["model: '' is not allowed; permitted: name, name@alias"]),
        ({"deadline": "9999-12-31T00:00:00Z"}, 422, ["deadline"]),
        ({"request": {"items": [{"caption": "\x00"}]}}, 422, ["NUL is not allowed"]),
    ],
)  # fmt: skip
def test_refused_values_are_named(stack: Stack, changes: dict[str, Any], status: int, words: list[str]) -> None:
    body = {"model": "tiny@production", "request": REQUEST, **changes}
    api = open_api(stack)
    assert_problem(api.post("/api/v1/jobs", json=body), status, *words)
    assert_problem(api.post("/api/v1/jobs/batch", json={"jobs": [body]}), status, *words)
    assert_problem(api.post("/api/v1/jobs/batch", json={"jobs": [{**body, "tags": 5}]}), 422, "jobs[0].tags: ")


def test_a_quota_is_an_answer_that_says_when_to_come_back(stack: Stack) -> None:
    make_tenant(stack, "full", max_open_jobs=0)
    answer = open_api(stack, "full").post("/api/v1/jobs", json={"model": "tiny", "request": REQUEST})
    assert_problem(answer, 429, "Submit again when some have ended")


def test_a_token_must_be_valid_and_permit_the_request(stack: Stack) -> None:
    job = make_job(stack, 1)
    reader = open_api(stack, scopes=("read",))
    assert reader.get(f"/api/v1/jobs/{job}").status_code == 200
    assert_problem(reader.post(f"/api/v1/jobs/{job}/cancel"), 403, "'submit'")
    assert_problem(open_api(stack, scopes=("submit",)).get("/api/v1/jobs"), 403, "'read'")
    expired = open_api(stack, lifetime=timedelta(seconds=-1))
    assert_problem(expired.get("/api/v1/jobs"), 401, "has expired")
    for header in ("", "Bearer ", "Bearer darkroom_x", "Basic YTpi", "Bearer \xff"):
        answer = reader.get("/api/v1/jobs", headers=[(b"authorization", header.encode("latin-1"))])
        assert_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    session = open_console(stack)  # a page's session is no token, so a form of another site cannot use the API
    assert_problem(session.post(f"/api/v1/jobs/{job}/cancel"), 401)


def test_only_the_hash_of_a_token_is_stored(stack: Stack) -> None:
    with stack.engine("migrator").begin() as connection:
        token, secret = tokens.create_token(connection, "default", "hidden", ("read",), HOUR)
        row = connection.execute(text("SELECT * FROM api_tokens WHERE id = :id"), {"id": token.id}).one()
    assert secret not in str(row)
    with stack.engine("console").begin() as connection, pytest.raises(Exception, match="permission denied"):
        connection.execute(text("SELECT digest FROM api_tokens"))


def test_commands_add_list_and_revoke_tokens(stack: Stack, darkroom_here: Darkroom) -> None:
    added = json.loads(darkroom_here("tenants", "tokens", "add", "default", "nightly", "--days", "2", "--json").stdout)
    api = open_console(stack)
    headers = {"Authorization": f"Bearer {added['token']}"}
    assert api.get("/api/v1/jobs", headers=headers).status_code == 200
    listed = json.loads(darkroom_here("tenants", "tokens", "list", "default", "--json").stdout)
    (token,) = [one for one in listed if one["id"] == added["id"]]
    assert (token["name"], token["last_used_at"] is None) == ("nightly", False)
    darkroom_here("tenants", "tokens", "revoke", "default", added["id"])
    assert_problem(api.get("/api/v1/jobs", headers=headers), 401, "revoked")
    for arguments, words in (
        (("add", "nobody", "x"), "nobody"),
        (("add", "default", "x", "--scope", "all"), "permitted: read, submit"),
        (("revoke", "default", added["id"]), "no valid token"),
        (("revoke", "default", "x"), "is not an id"),
    ):
        refused = darkroom_here("tenants", "tokens", *arguments)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused


def test_a_token_has_a_limit_of_requests() -> None:
    now = [0.0]
    rates = Rates(per_s=2, burst=3, clock=lambda: now[0])
    one, other = uuid.uuid4(), uuid.uuid4()
    for _ in range(3):
        rates.count(one)
    with pytest.raises(Exception, match="permitted: 2 a second and 3 at once") as refused:
        rates.count(one)
    assert refused.value.headers == {"Retry-After": "1"}  # type: ignore[attr-defined]
    rates.count(other)
    now[0] = 0.6
    rates.count(one)


def test_oversized_bodies_are_refused(stack: Stack) -> None:
    body = {"model": "tiny", "request": {"items": [{"caption": "x" * 2**24}]}}
    assert_problem(open_api(stack).post("/api/v1/jobs", json=body), 413, "permitted: at most")

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 2**20

    assert_problem(open_api(stack).post("/api/v1/jobs", content=chunks()), 413, "permitted: at most")


def test_the_document_describes_every_operation(stack: Stack) -> None:
    document = open_console(stack).get("/api/v1/openapi.json").json()
    operations = [(path, verb) for path, verbs in document["paths"].items() for verb in verbs]
    assert ("/jobs", "post") in operations
    assert len(operations) >= 10
    for path, verb in operations:
        operation = document["paths"][path][verb]
        assert operation["security"] == [{"HTTPBearer": []}], (path, verb)
        assert "401" in operation["responses"]
