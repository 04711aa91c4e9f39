"""A headless Chromium of the system, driven by Playwright; tests that need it are skipped where it is missing."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.types import ASGIApp

from services.console.app import make_app
from services.console.server import Server
from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from tests.support.console import console_settings
from tests.support.stack import Stack

TIMEOUT_MS = 60_000
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def open_browser() -> Iterator[Any]:
    """A running Chromium, as Playwright's Browser. Skips the test if there is none."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(app: ASGIApp, port: int = 0, **options: Any) -> Iterator[str]:
    """Serve the console on loopback, in a thread. Yields its address. port: 0 for any. options: of the server."""
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    server = Server(app, listener, **options)
    thread = threading.Thread(target=server.serve_until_stopped, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def served_console(stack: Stack) -> Iterator[tuple[str, SignInLinks]]:
    """Serve the console of a stack. Yields its address, and what issues links that sign in."""
    links = SignInLinks()
    with served(make_app(console_settings(stack), stack.engine("console"), stack.store(), links)) as address:
        yield address, links


@contextmanager
def signed_in_tab(browser: Any, console: tuple[str, SignInLinks], viewer: Viewer, **options: Any) -> Iterator[Any]:
    """A tab of the console whose user has signed in. options: of the browser's context.

    It fails the test for errors of scripts and for what the policy forbids.
    """
    context = browser.new_context(base_url=console[0], **options)
    context.set_default_timeout(TIMEOUT_MS)
    tab, errors = context.new_page(), list[str]()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None)
    sign_in(tab, console, viewer)
    yield tab
    context.close()
    assert errors == []


def sign_in(tab: Any, console: tuple[str, SignInLinks], viewer: Viewer) -> None:
    """Sign in in a tab, with a new link."""
    tab.goto("/sign-in?token=" + console[1].issue(viewer))


def scroll_to(page: Any, selector: str) -> None:
    """Scroll to the end again and again until this is there; the page's own script adds it."""
    end_at = time.monotonic() + 90
    while page.query_selector(selector) is None:
        assert time.monotonic() < end_at, page.inner_text("main")[-200:]
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.wait_for_timeout(100)
