"""Small image sets made of the user's own images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.own_images import Files, write_folder
from training.data.image_set import ImageSet
from training.data.own_images.prepare import Settings, prepare


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ImageSet]:
    """Prepare a source, or files as a folder, at size 8 without held-out images."""
    quiet = Console(file=io.StringIO(), width=120)
    made = iter(range(100))

    def run(source: str | Files, **options: Any) -> ImageSet:
        number = next(made)
        if isinstance(source, dict):
            source = write_folder(tmp_path / f"source-{number}", source)
        console = options.pop("console", quiet)
        settings = Settings(**{"image_size": 8, "held_out": 0.0, **options})
        return prepare(source, tmp_path / f"set-{number}", settings, console=console)

    return run
