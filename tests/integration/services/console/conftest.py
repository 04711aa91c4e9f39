"""A browser, and no jobs that stay behind."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import open_browser
from tests.support.console import remove_jobs
from tests.support.stack import Stack


@pytest.fixture(scope="module", autouse=True)
def _no_jobs_stay(stack: Stack) -> Iterator[None]:
    yield
    remove_jobs(stack)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened
