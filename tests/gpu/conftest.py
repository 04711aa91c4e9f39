"""These tests need a GPU. They need no server, and no packages but those of the worker and of training."""

import os

import pytest
import torch

REHEARSES = "DARKROOM_REHEARSE_GPU" in os.environ  # run what a CPU can run of them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them elsewhere."""
    if torch.cuda.is_available() or REHEARSES:
        return
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))
