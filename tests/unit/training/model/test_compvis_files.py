"""Files that must not be trusted, and files that are damaged."""

import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.compvis import TINY_FIRST_STAGE, random_state, tiny_checkpoint, write_checkpoint
from training.model.autoencoder import Autoencoder
from training.model.interop import compvis


@pytest.fixture
def parts() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return tiny_checkpoint()


def test_state_of_the_trainer_in_a_file_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released files name Lightning's ModelCheckpoint, by its old module, beside their tensors."""
    path = "pytorch_lightning.callbacks.model_checkpoint"
    checkpoint_class = type("ModelCheckpoint", (), {"__module__": path})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", path):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[path], "ModelCheckpoint", checkpoint_class, raising=False)
    callback = checkpoint_class()
    callback.monitor = "val/rec_loss"
    _, config = write_checkpoint(tmp_path, TINY_FIRST_STAGE, {})
    content = {
        "callbacks": {checkpoint_class: {"best_model_score": np.float64(0.5)}, "saved": callback},
        "state_dict": random_state(TINY_FIRST_STAGE, ""),
    }
    torch.save(content, tmp_path / "model.ckpt")
    monkeypatch.undo()
    assert isinstance(compvis.read(tmp_path / "model.ckpt", config), Autoencoder)


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/darkroom-was-here",)


def test_a_pickle_with_code_is_refused_without_running_it(tmp_path: Path, parts: Any) -> None:
    config, _ = parts
    checkpoint, described = write_checkpoint(tmp_path, config, {"model.weight": Malicious()})
    marker = Path("/tmp/darkroom-was-here")
    marker.unlink(missing_ok=True)
    for content in (checkpoint.read_bytes(), pickle.dumps(Malicious())):
        checkpoint.write_bytes(content)
        with pytest.raises(compvis.CompVisError, match="refused, it contains more than tensors") as caught:
            compvis.read(checkpoint, described)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_unreadable_files_are_refused_with_the_reason(tmp_path: Path, parts: Any) -> None:
    config, state = parts
    checkpoint, described = write_checkpoint(tmp_path, config, state)

    def read_error() -> str:
        with pytest.raises(compvis.CompVisError) as caught:
            compvis.read(checkpoint, described)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "missing or damaged" in read_error()
    checkpoint.unlink()
    assert "missing or damaged" in read_error()
    torch.save([1, 2], checkpoint)
    assert "has no state_dict of tensors" in read_error()
    checkpoint.write_bytes(whole)
    described.write_text("model: [")
    assert "not YAML" in read_error()
    described.write_text("model: {}")
    assert "model.target is missing" in read_error()
    described.write_text("model: {target: some.Other}")
    assert "model.target: some.Other cannot be read; permitted: DDPM, LatentDiffusion" in read_error()
    described.unlink()
    assert "config.yaml: cannot be read" in read_error()
