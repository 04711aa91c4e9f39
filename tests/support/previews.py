"""Cheaper previews for tests that train and do not look at them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def small_previews() -> Iterator[None]:
    """Sample one row of previews in two steps. By default a short training samples for longer than it trains."""
    from training.previews import samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "SAMPLE_ROWS", 1)
        patch.setattr(samples, "STEPS", 2)
        yield
