"""Shared by the tests of the chart."""

from collections.abc import Iterator
from functools import cache

import kubernetes_validate
import pytest


@pytest.fixture(autouse=True, scope="session")
def _schemas_read_once() -> Iterator[None]:
    """Read each file of schemas once: kubernetes_validate lists its folder and reads a megabyte for every object."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("schema_contents", "latest_version"):
            patch.setattr(kubernetes_validate.utils, name, cache(getattr(kubernetes_validate.utils, name)))
        yield
