"""Signing in at an OpenID Connect provider in a process of its own, in a browser and by a browser's requests."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from services.console.app import make_app
from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from tests.support.browser import open_browser, served
from tests.support.console import HTML, console_settings, make_job
from tests.support.http import free_port
from tests.support.oidc import running_provider
from tests.support.stack import Stack

ADA = {"sub": "ada", "preferred_username": "Ada L", "groups": ["team-a", "platform"]}
EVE = {"sub": "eve", "groups": ["strangers"]}
SLOW_MS = 120_000


def app_of(stack: Stack, issuer: str, links: SignInLinks | None = None) -> Any:
    settings = console_settings(stack).model_copy(
        update={
            "console_oidc_issuer": issuer, "console_oidc_client_id": "console",
            "console_oidc_client_secret": SecretStr("a-client-secret"),
            "console_tenants": {"team-a": "default"}, "console_operators": ["platform"],
        }
    )  # fmt: skip
    return make_app(settings, stack.engine("console"), stack.store(), links or SignInLinks())


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with running_provider(free_port(), ADA, EVE) as issuer:
        yield issuer


@pytest.fixture
def console(stack: Stack, issuer: str) -> TestClient:
    return TestClient(app_of(stack, issuer), base_url="http://127.0.0.1", headers=HTML, follow_redirects=False)


def begin(console: TestClient, path: str = "/jobs") -> str:
    """Ask for a page, and return the provider's address to which the browser is led."""
    asked = console.get(path)
    assert (asked.status_code, asked.headers["location"].split("?")[0]) == (303, "/sign-in/begin")
    led = console.get(asked.headers["location"])
    assert led.status_code == 303
    return str(led.headers["location"])


def approve(address: str, sub: str = "ada", **fields: str) -> str:
    """Sign in at the provider, and return the path of the console to which it leads back."""
    answer = httpx2.post(address, data={"sub": sub, **fields})
    back = urlsplit(answer.headers["location"])
    assert (back.hostname, back.path) == ("127.0.0.1", "/sign-in/callback")
    return f"{back.path}?{back.query}"


def test_a_person_signs_in_and_comes_back_to_the_page(console: TestClient) -> None:
    address = begin(console, "/jobs?state=failed")
    asked = parse_qs(urlsplit(address).query)
    assert (asked["code_challenge_method"], asked["response_type"]) == (["S256"], ["code"])
    (pending,) = console.cookies.jar
    assert (pending.path, pending.has_nonstandard_attr("HttpOnly")) == ("/sign-in", True)
    ended = console.get(approve(address))
    assert (ended.status_code, ended.headers["location"]) == (303, "/jobs?state=failed")
    page = console.get("/jobs").text
    assert "Ada L" in page
    assert console.get("/runs").status_code == 200  # an operator's


def test_a_code_counts_once_and_in_the_browser_alone_that_began(console: TestClient, stack: Stack, issuer: str) -> None:
    """Else a link could sign somebody in as the one who sent it."""
    path = approve(begin(console))
    other = TestClient(console.app, base_url="http://127.0.0.1", headers=HTML, follow_redirects=False)
    for refused in (other.get(path), console.get(path.replace("state=", "state=x")), console.get("/sign-in/callback")):
        assert (refused.status_code, "was not begun by this browser" in refused.text) == (403, True)
        assert "/sign-in/begin" in refused.text
    assert other.get("/jobs").status_code == 303
    assert console.get(path).status_code == 303
    assert console.get(path).status_code == 403


def test_several_tabs_sign_in_at_once(console: TestClient) -> None:
    addresses = [begin(console, f"/jobs?q={number}") for number in range(3)]
    for number, address in enumerate(addresses):
        assert console.get(approve(address)).headers["location"] == f"/jobs?q={number}"
    for _ in range(20):
        begin_again = console.get("/sign-in/begin")
        assert begin_again.status_code == 303
    assert len(console.cookies.jar) < 12


def test_a_person_without_a_tenant_and_one_who_declines_get_no_session(console: TestClient) -> None:
    refused = console.get(approve(begin(console), "eve"))
    assert (refused.status_code, "No group of yours has a tenant" in refused.text) == (403, True)
    unknown = console.get(approve(begin(console), "somebody@example.com"))
    assert (unknown.status_code, "no claim groups" in unknown.text) == (403, True)
    declined = console.get(approve(begin(console), action="deny"))
    assert declined.status_code == 403
    assert console.get("/jobs").status_code == 303


def test_links_sign_nobody_in_where_there_is_a_provider(stack: Stack, issuer: str) -> None:
    links = SignInLinks()
    client = TestClient(app_of(stack, issuer, links), base_url="http://127.0.0.1", headers=HTML)
    assert client.get("/sign-in", params={"token": links.issue(Viewer("ada", "default"))}).status_code == 403


def test_scripts_and_programs_are_not_led_away(console: TestClient) -> None:
    for headers in ({"Sec-Fetch-Mode": "cors"}, {"Accept": "application/json"}):
        assert console.get("/jobs", headers=headers).status_code == 401
    form = console.post("/submit", data={"csrf": "x"})
    assert (form.status_code, 'href="/sign-in/begin"' in form.text) == (401, True)
    assert "darkroom console" not in form.text  # prints no links
    assert console.get("/sign-in/begin", headers={"Sec-Fetch-Mode": "cors"}).status_code == 204
    assert console.get("/api/v1/jobs").status_code == 401


def test_a_browser_signs_in_as_soon_as_the_provider_is_back_and_signs_out(stack: Stack) -> None:
    job = make_job(stack, 2)
    port = free_port()
    with open_browser() as browser, served(app_of(stack, f"http://127.0.0.1:{port}")) as address:
        page = browser.new_context(base_url=address).new_page()
        page.set_default_timeout(SLOW_MS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"/jobs/{job}?item=0")
        page.wait_for_selector("text=does not answer as it should")
        with running_provider(port, ADA):
            page.click('button:has-text("ada")')
            page.wait_for_selector("#image-0")
            assert re.fullmatch(rf".*/jobs/{job}\?item=0", page.url)
            page.click("text=Sign out")
            page.wait_for_selector("text=You are signed out")
            assert page.get_attribute("text=Sign out there too", "href").startswith(f"http://127.0.0.1:{port}/")
            page.click("text=Sign in again")
            page.click('button:has-text("ada")')
            page.wait_for_selector("text=Ada L")
            assert errors == []
