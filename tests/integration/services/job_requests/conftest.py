"""A release whose condition is an image."""

import pytest

from services.registry import aliases, releases
from tests.support.releases import MAP_MODEL, make_map_release
from tests.support.stack import Stack


@pytest.fixture(scope="session")
def map_release(stack: Stack) -> None:
    """A release that takes a semantic map of 32x32 pixels and four classes."""
    folder = make_map_release(stack.root / MAP_MODEL)
    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), folder)
        aliases.promote(connection, f"{name}@{version}", "production")
