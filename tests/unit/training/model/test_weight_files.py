"""Files that others wrote: what they are is named, and what is beside the weights is passed over."""

import argparse
import json
import os
import pathlib
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from training.model.interop.weight_files import WeightsError, read_tensors


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4), "steps": torch.tensor(3)}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor)


class Module(torch.nn.Module):
    """A class that only this file knows."""


BESIDE = {
    "OmegaConf": OmegaConf.create({"unet": {"channel_mult": [1, 2]}}),
    "Namespace": argparse.Namespace(lr=1e-4),
    "Path": pathlib.PurePosixPath("/x"),
    "set": {1, 2},
    "module": Module(),
    "function": json.dumps,
    "dtype": torch.float16,
    "plain": {"lr": 1e-4},
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_objects_beside_the_weights_are_passed_over(
    tmp_path: Path, state: dict[str, Tensor], name: str, zipped: bool
) -> None:
    content = {"hyper_parameters": BESIDE[name], "state_dict": {**state, "scheduler": BESIDE[name]}, "epoch": 3}
    torch.save(content, tmp_path / "w.ckpt", _use_new_zipfile_serialization=zipped)
    assert_equal(read_tensors(tmp_path / "w.ckpt"), state)


@pytest.mark.parametrize(
    "layout",
    [
        lambda state: state,
        lambda state: {**state, "global_step": 470_000},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state, "optimizer": {"step": torch.ones(1)}},
        lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
        lambda state: {"state_dict": {f"module._orig_mod.{key}": tensor for key, tensor in state.items()}},
        lambda state: {"state_dict": {key.replace("a.", "a._orig_mod."): tensor for key, tensor in state.items()}},
    ],
)
def test_weights_are_found_wherever_a_trainer_puts_them(tmp_path: Path, state: dict[str, Tensor], layout: Any) -> None:
    torch.save(layout(state), tmp_path / "w.pth")
    assert_equal(read_tensors(tmp_path / "w.pth"), state)


def test_the_content_decides_and_not_the_ending(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "really-safetensors.ckpt")
    torch.save(state, tmp_path / "really-a-checkpoint.safetensors")
    for path in tmp_path.iterdir():
        assert_equal(read_tensors(path), state)


def test_parts_are_read_together(tmp_path: Path, state: dict[str, Tensor]) -> None:
    one, two = (tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file({"a.weight": state["a.weight"]}, one)
    save_file({key: tensor for key, tensor in state.items() if key != "a.weight"}, two)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": one.name, "a.bias": two.name, "steps": two.name}}))
    for path in (one, two, index):
        assert_equal(read_tensors(path), state)
    two.unlink()
    for path in (one, index):
        with pytest.raises(WeightsError, match=r"parts of the model are missing: model-00002-of-00002\.safetensors; "):
            read_tensors(path)


class Runs:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.function, ("touch /tmp/darkroom-ran-this",)


@pytest.mark.parametrize("function", [os.system, eval, shutil.rmtree], ids=["system", "eval", "rmtree"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_program_is_refused_and_never_runs(
    tmp_path: Path, state: dict[str, Tensor], function: Any, zipped: bool
) -> None:
    marker = Path("/tmp/darkroom-ran-this")
    marker.unlink(missing_ok=True)
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": state, "x": Runs(function)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"refused, it contains more than tensors: it names \w+\.\w+, which is code"):
        read_tensors(path)
    assert not marker.exists()


def make_zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")


def encrypt(path: Path) -> None:
    """Set the flag of encryption in the archive's directory."""
    make_zip(path, "archive/data.pkl")
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def cut(path: Path, save: Any) -> None:
    save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, r"missing or damaged \(no such file\)"),
        (lambda path: path.mkdir(), "is a folder; give the file"),
        (lambda path: path.touch(), "is empty; fetch it again"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
        (lambda path: path.write_text("\n<!DOCTYPE html><title>Sign in</title>"), "is a web page, not weights"),
        (lambda path: path.write_text('{"error": "Access denied"}'), "is text, not weights; it begins with '{\"error"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(20)), "quantised weights in the GGUF format"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(20)), "compressed by gzip; unpack it first"),
        (lambda path: path.write_bytes(bytes(257) + b"ustar"), "is a tar archive; unpack it first"),
        (
            lambda path: path.write_bytes(b"age-encryption.org/v1\n-> X25519 x\n\xff"),
            "encrypted by age; decrypt it first",
        ),
        (lambda path: path.write_bytes(b"Salted__" + bytes(range(200))), "encrypted by openssl; decrypt it first"),
        (lambda path: path.write_text("-----BEGIN PGP MESSAGE-----\n\nx"), "encrypted by PGP; decrypt it first"),
        (lambda path: path.write_bytes(bytes(600)), "its beginning is of no known format; is it encrypted"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "missing or damaged"),
        (lambda path: make_zip(path, "model/config.json"), r"zip archive of other files \(model/config.json\); unpack"),
        (lambda path: make_zip(path, "model/constants.pkl"), "is a program of TorchScript"),
        (encrypt, "is encrypted; unpack it with its password"),
        (lambda path: cut(path, torch.save), r"missing or damaged \(it ends too early; fetch it again\)"),
        (lambda path: cut(path, save_file), r"missing or damaged \(it has 3,5\d\d of 4,0\d\d bytes; fetch it again\)"),
        (lambda path: torch.save({"a": 1}, path), "has no state_dict of tensors"),
    ],
)
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_what_is_no_file_of_weights_is_named_for_what_it_is(tmp_path: Path, make: Any, told: str, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    make(path)
    with pytest.raises(WeightsError, match=told) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
