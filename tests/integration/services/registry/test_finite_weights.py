"""A release with weights that are not finite is refused at publishing."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.registry import releases, weights
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack
from training.model import release as release_format
from training.model.release import ReleaseError

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_such_a_release_is_not_published(stack: Stack, tmp_path: Path, number: float) -> None:
    folder = make_tiny_release(tmp_path / "broken", seed=60, name="broken")
    release = release_format.read(folder)
    tensors = load_file(folder / "unet.safetensors")
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = number
    save_file(tensors, folder / "unet.safetensors")
    release_format.write(folder, release)
    with (
        stack.engine("publisher").begin() as connection,
        pytest.raises(ReleaseError, match=rf"unet\.safetensors: tensor '{name}' contains NaN or infinity; permitted"),
    ):
        releases.publish(connection, stack.store(), folder)
    with stack.engine("publisher").connect() as connection:
        assert "broken" not in {row.name for row in releases.list_releases(connection)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_type_of_number_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    """The largest numbers are finite; one number among five million is found."""
    info = torch.finfo(dtype)
    finite = torch.zeros(5_000_001).to(dtype)
    finite[:4] = torch.tensor([info.max, info.min, info.tiny, -0.0], dtype=torch.float64).to(dtype)
    save_file({"whole": finite, "numbers": torch.full((10,), -1)}, tmp_path / "w.safetensors", {"a": "b"})
    weights.check_finite(tmp_path)
    finite[-1] = math.nan
    save_file({"whole": finite}, tmp_path / "w.safetensors")
    with pytest.raises(ReleaseError, match="tensor 'whole' contains NaN or infinity"):
        weights.check_finite(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x08" + b"\0" * 7 + b'{"a": 1}']
)
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"w\.safetensors: not a safetensors file .*; export the release again"):
        weights.check_finite(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    save_file({"whole": torch.ones(1000)}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[:-2000])
    with pytest.raises(ReleaseError, match=r"w\.safetensors: not a safetensors file \(the data of 'whole' is"):
        weights.check_finite(tmp_path)
