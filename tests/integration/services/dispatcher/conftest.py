"""The planning of jobs in small batches."""

import pytest

from services.dispatcher import finalizer, planner, sharding


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 32 images, with a tick after each and no other, and pages of 10."""
    monkeypatch.setattr(planner, "CHECK_S", 3600.0)
    monkeypatch.setattr(sharding, "BATCH_IMAGES", 32)
    monkeypatch.setattr(finalizer, "PAGE", 10)
