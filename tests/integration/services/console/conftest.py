"""Leaves no jobs behind."""

from collections.abc import Iterator

import pytest

from tests.support.console import remove_jobs
from tests.support.stack import Stack


@pytest.fixture(scope="module", autouse=True)
def _no_jobs_stay(stack: Stack) -> Iterator[None]:
    yield
    remove_jobs(stack)
