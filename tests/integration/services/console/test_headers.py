"""What the passive rules of OWASP ZAP's baseline scan look for, by their numbers, in each kind of answer."""

import re
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from tests.support.browser import served
from tests.support.console import HTML, make_job, open_console
from tests.support.stack import Stack
from tests.support.tenants import make_tenant

TENANT = "headers"
PAGES = ("/jobs", "/jobs/{job}", "/jobs/{job}/images/0", "/submit", "/recall", "/releases", "/service", "/nowhere")
FILES = ("/static/console.css", "/static/console.js", "/jobs/{job}/images/0/file", "/api/v1/openapi.json", "/healthz")
TIME = re.compile(r"\b1[5-9][0-9]{8}\b")  # seconds since 1970
HANDLER = re.compile(r"<script(?![^>]*\bsrc=\"/static/)|\son\w+=|\sstyle=|https?://|target=")


@pytest.fixture(scope="module")
def console(stack: Stack) -> TestClient:
    make_tenant(stack, TENANT)
    return open_console(stack, TENANT, console_hosts=["pictures.example.com"])


@pytest.fixture(scope="module")
def answers(stack: Stack, console: TestClient) -> dict[str, Any]:
    job = make_job(stack, 2, tenant=TENANT)
    paths = [path.format(job=job) for path in (*PAGES, *FILES)]
    stranger = TestClient(console.app, base_url=str(console.base_url), headers=HTML)
    return {path: console.get(path) for path in paths} | {"signed out": stranger.get("/jobs")}


def test_every_answer_has_the_headers(answers: dict[str, Any]) -> None:
    for path, answer in answers.items():
        headers = answer.headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))  # 10038, 10055
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'", path  # 10020
        assert set(policy.values()) == {"'none'", "'self'"}, path
        assert {"form-action", "script-src"} <= policy.keys()
        assert headers["X-Content-Type-Options"] == "nosniff"  # 10021
        assert headers["Referrer-Policy"] == "same-origin"  # 10025
        assert headers["Strict-Transport-Security"].startswith("max-age=")  # 10035
        assert "camera=()" in headers["Permissions-Policy"]  # 10063
        for name in ("Opener", "Resource"):
            assert headers[f"Cross-Origin-{name}-Policy"] == "same-origin"  # 90004
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "charset=utf-8" in headers["Content-Type"] or not headers["Content-Type"].startswith("text/")  # 90011
        assert not {"Server", "X-Powered-By", "Access-Control-Allow-Origin"} & headers.keys(), (
            path
        )  # 10036, 10037, 10098


def test_pages_are_not_cached_and_disclose_nothing(answers: dict[str, Any]) -> None:
    pages = {path: answer for path, answer in answers.items() if answer.headers["Content-Type"].startswith("text/html")}
    assert len(pages) == len(PAGES) + 1
    for path, answer in pages.items():
        assert answer.headers["Cache-Control"] == "no-store", path  # 10015, 10049
        assert not HANDLER.search(answer.text), path  # 10017, 10055, 10108
        assert not re.search(r"Traceback|psycopg|sqlalchemy", answer.text), path  # 10023, 90022
        assert not TIME.search(answer.text), path  # 10096
        for form in re.findall(r"<form.*?</form>", answer.text, re.DOTALL):
            assert 'method="post"' not in form or 'name="csrf"' in form, path  # 10202
        assert "token=" not in answer.text  # 10024
    (image,) = (answer for path, answer in answers.items() if path.endswith("/file"))
    assert image.headers["Cache-Control"].startswith("private")


def test_cookies_are_for_the_console_alone(console: TestClient) -> None:
    (cookie,) = console.cookies.jar
    assert (cookie.secure, cookie.path, cookie.domain_specified) == (True, "/", False)  # 10011, 90033
    assert cookie.has_nonstandard_attr("httponly")  # 10010
    assert cookie.get_nonstandard_attr("samesite") == "lax"  # 10054


def test_the_server_does_not_name_itself(stack: Stack) -> None:
    with served(open_console(stack).app) as address:
        answer = httpx.get(f"{address}/healthz")
    assert "server" not in answer.headers  # 10036
