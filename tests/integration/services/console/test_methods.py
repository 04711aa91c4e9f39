"""Methods of HTTP: each address answers 405 to those it lacks and names the others; HEAD answers what GET would."""

import re
import uuid
from collections import defaultdict

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from services.console.api.app import ROUTERS
from services.console.app import make_app
from services.console.pages import PAGES
from services.console.problems import METHODS
from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from tests.support.console import console_settings, make_job, open_console
from tests.support.stack import Stack

VALUES = {"name": "tiny", "version": "1", "size": "256", "index": "0", "action": "pause"}  # of parameters of paths


@pytest.fixture(scope="module")
def console(stack: Stack) -> TestClient:
    return open_console(stack)


def example(path: str) -> str:
    return re.sub(r"{(\w+)(:\w+)?}", lambda match: VALUES.get(match[1], str(uuid.UUID(int=7))), path)


def test_an_address_refuses_the_methods_that_it_lacks_and_names_the_others(console: TestClient) -> None:
    permitted = defaultdict[str, set[str]](set, {"/static/console.css": {"GET"}, "/api/v1/openapi.json": {"GET"}})
    for prefix, routers in (("", PAGES), ("/api/v1", ROUTERS)):
        for route in (route for router in routers for route in router.routes if isinstance(route, APIRoute)):
            permitted[example(prefix + route.path)] |= route.methods or set()
    assert len(permitted) > 50
    wrong = list[str]()
    for path, methods in permitted.items():
        allowed = {*methods, "HEAD"} if "GET" in methods and not path.startswith("/sign-in") else methods
        for method in {*METHODS, "HEAD"} - allowed:
            answer = console.request(method, path, follow_redirects=False)
            if (answer.status_code, set(answer.headers.get("allow", "").split(", "))) != (405, allowed):
                wrong.append(f"{method} {path}: {answer.status_code} {answer.headers.get('allow')}")
    assert wrong == []


def test_head_has_the_headers_of_get(stack: Stack, console: TestClient) -> None:
    job = make_job(stack, 2, pictures=1)
    running = make_job(stack, 2, pictures=1, state="running", succeeded=0, finished_at=None)
    for path in ("/healthz", "/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0/file", f"/jobs/{job}/images/0/256.webp",
                 f"/jobs/{job}/picks.zip", "/submit", "/static/console.css", "/jobs/nothing", "/nowhere"):  # fmt: skip
        head, got = console.head(path), console.get(path)
        assert (path, head.status_code, head.content) == (path, got.status_code, b"")
        assert dict(head.headers) == dict(got.headers)
    assert console.head("/events", params={"job": str(running)}).headers["content-type"].startswith("text/event-stream")


def test_head_uses_no_link_that_signs_in(stack: Stack) -> None:
    """Programs that preview a link ask so before a person opens it."""
    links = SignInLinks()
    app = make_app(console_settings(stack), stack.engine("console"), stack.store(), links)
    console = TestClient(app, base_url="http://127.0.0.1")
    link = f"/sign-in?token={links.issue(Viewer('ada', 'default'))}"
    refused = console.head(link)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert console.get(link).status_code == 200
