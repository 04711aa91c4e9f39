"""Paths in overrides, as people write them on a command line."""

import pytest

from training.experiments import compose


@pytest.mark.parametrize(
    "path",
    ["My Pictures (1)", "run=3,b", "50% it's", "März/日本", "{a}[b]", "null", "C$D\\ ", "s3://x/date=2024-01-31/"],
)
def test_a_path_is_a_path(path: str) -> None:
    config = compose.data([f"data.root={path}", f"data.latents='{path}'", f"data.prepared={path}"])
    assert (config.root, config.latents) == (path, path)
    assert config.prepared == (None if path == "null" else path)
