"""Shared by the tests of the chart."""

from collections.abc import Iterator
from functools import cache

import kubernetes_validate
import pytest


@pytest.fixture(autouse=True, scope="session")
def _schemas_read_once() -> Iterator[None]:
    """Read each file of schemas once: kubernetes_validate reads a megabyte for every object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
        yield
