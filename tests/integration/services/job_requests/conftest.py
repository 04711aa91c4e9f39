"""A release whose condition is an image."""

import pytest

from tests.support.releases import MAP_MODEL, make_map_release
from tests.support.stack import Stack, publish


@pytest.fixture(scope="session")
def map_release(stack: Stack) -> None:
    """A release that takes a semantic map of 32x32 pixels and four classes."""
    publish(stack, make_map_release(stack.root / MAP_MODEL))
