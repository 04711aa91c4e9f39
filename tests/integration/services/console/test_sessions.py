"""Signing in, sessions, forms of other sites, and the headers of every answer."""

import re

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from services.console.forms import read_form
from services.console.pages import PAGES
from services.console.sign_in import MOST_LINKS, SignInLinks
from services.console.viewer import Viewer
from tests.support.console import HTML, make_job, open_console
from tests.support.stack import Stack

VIEWER = Viewer("ada", "default")


def token_of(console: TestClient) -> str:
    (token,) = set(re.findall(r'name="csrf" value="([^"]+)"', console.get("/jobs").text))
    return str(token)


def test_a_link_works_once() -> None:
    used: list[Viewer] = []
    links = SignInLinks(used.append)
    token = links.issue(VIEWER)
    assert links.redeem(token) == VIEWER
    assert links.redeem(token) is None
    assert used == [VIEWER]
    assert links.redeem("") is links.redeem("\ud800") is None


def test_old_links_end_as_new_ones_are_issued() -> None:
    links = SignInLinks()
    first = links.issue(VIEWER)
    last = [links.issue(VIEWER) for _ in range(MOST_LINKS)][-1]
    assert (links.redeem(first), links.redeem(last)) == (None, VIEWER)


def test_without_a_session_every_page_says_how_to_sign_in(stack: Stack) -> None:
    job = make_job(stack, 1)
    console = open_console(stack)
    console.cookies.clear()
    for path in ("/jobs", f"/jobs/{job}", f"/jobs/{job}/images/0", f"/jobs/{job}/images/0/file"):
        answer = console.get(path)
        assert (answer.status_code, "darkroom console" in answer.text) == (401, True)


def test_a_page_about_a_problem_has_the_headers_of_others_and_leaves_no_trace(stack: Stack) -> None:
    """The client raises what the server would log with a stack trace."""
    strict = TestClient(open_console(stack).app, base_url="http://127.0.0.1", headers=HTML)
    answer = strict.get("/jobs")
    assert (answer.status_code, "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]) == (401, True)
    assert strict.get("/submit", headers={"Accept": "*/*"}).headers["Cache-Control"] == "no-store"


def test_a_changed_cookie_is_no_session(stack: Stack) -> None:
    console = open_console(stack)
    (cookie,) = console.cookies.jar
    console.cookies.clear()
    console.cookies.set(cookie.name, "x" + str(cookie.value)[1:])
    assert console.get("/jobs").status_code == 401


def test_signing_out_needs_the_sessions_own_token(stack: Stack) -> None:
    console = open_console(stack)
    token = token_of(console)
    for data, headers, words in (
        ({}, {}, "another session"),
        ({"csrf": "x" * 43}, {}, "another session"),
        ({"csrf": token}, {"Origin": "http://evil.example"}, "another site"),
        ({"csrf": token}, {"Origin": "null"}, "another site"),
        ({"csrf": token}, {"Sec-Fetch-Site": "cross-site"}, "another site"),
    ):
        answer = console.post("/sign-out", data=data, headers=headers)
        assert (answer.status_code, words in answer.text) == (403, True), answer.text
    assert console.get("/jobs").status_code == 200
    console.post("/sign-out", data={"csrf": token}, headers={"Origin": "http://127.0.0.1"})
    assert console.get("/jobs").status_code == 401


def test_every_handler_that_changes_something_checks_its_form() -> None:
    routes = [route for router in PAGES for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 5
    for route in routes:
        calls = {dependency.call for dependency in route.dependant.dependencies}
        assert route.methods == {"GET"} or read_form in calls, route.path


def test_oversized_forms_are_refused(stack: Stack) -> None:
    console = open_console(stack)
    answer = console.post("/sign-out", content=b"a=" + b"x" * (2**24 + 1))
    assert (answer.status_code, "permitted: at most" in answer.text) == (413, True)
    many = console.post("/sign-out", data={f"field{n}": "x" for n in range(1_100)})
    assert many.status_code in (400, 413)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8520"])
def test_names_of_other_sites_are_refused(stack: Stack, host: str) -> None:
    """A site whose name leads to loopback could otherwise read pages: DNS rebinding."""
    assert open_console(stack).get("/jobs", headers={"Host": host}).status_code == 400
