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
from tests.support.console import console_settings
from tests.support.stack import Stack

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
