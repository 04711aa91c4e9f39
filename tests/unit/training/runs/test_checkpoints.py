"""Checkpoints: whole or absent, the latest kept, and every fault told."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.runs import checkpoints, recipe_state
from training.runs.checkpoints import CheckpointError, LocalCheckpoints

RUN = {"config": {"steps": 9}, "inputs": {}}


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {"recipe.weight": torch.full((4, 3, 2, 2), float(value)).to(memory_format=torch.channels_last)}


def test_the_latest_is_found_and_the_oldest_are_forgotten(tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path / "checkpoints", keep=2)
    assert store.latest() is None
    for step in (5, 10, 100_000_000):
        store.save(step, tensors(step), RUN)
    assert [path.name for path in store.complete()] == ["step-00000010", "step-100000000"]
    latest = store.latest()
    assert latest is not None
    assert (latest.step, latest.run["config"]) == (100_000_000, {"steps": 9})
    store.clear()
    assert store.latest() is None


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path)
    store.save(3, tensors(1), RUN)
    store.save(3, tensors(2), {"config": {"steps": 10}, "inputs": {}})
    latest = store.latest()
    assert latest is not None
    assert latest.run["config"] == {"steps": 10}
    assert float(load_file(latest.folder / checkpoints.STATE)["recipe.weight"].mean()) == 2


def test_one_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path)
    store.save(3, tensors(), RUN)
    (tmp_path / "step-00000004.unfinished").mkdir()
    (tmp_path / "step-00000004.unfinished" / checkpoints.STATE).write_bytes(b"half")
    latest = store.latest()
    assert latest is not None
    assert latest.step == 3
    store.save(4, tensors(), RUN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_damaged_description_is_told_with_the_cure(tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path)
    store.save(3, tensors(), RUN)
    (tmp_path / "step-00000003" / checkpoints.RUN).write_text("{")
    with pytest.raises(CheckpointError, match=r"step-00000003: a damaged checkpoint .*; remove the folder to resume"):
        store.latest()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_checkpoint_before_is_whole(small_disk: Path) -> None:
    store = LocalCheckpoints(small_disk / "checkpoints")
    store.save(5, tensors(), RUN)
    with pytest.raises(CheckpointError) as caught:
        store.save(10, {"recipe.weight": torch.zeros(1_000_000)}, RUN)
    assert "the checkpoint of step 10 could not be written: the disk is full; a checkpoint takes 4 MB" in str(
        caught.value
    )
    assert "(step 5 is kept). Make room and run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (small_disk / "checkpoints").iterdir()] == ["step-00000005"]
    latest = store.latest()
    assert latest is not None
    assert json.loads((latest.folder / checkpoints.RUN).read_text())["step"] == 5


def test_moments_come_back_in_the_layout_of_their_parameters(tmp_path: Path) -> None:
    """Sums over other layouts end in other last digits."""
    network = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.randn(1, 4, 5, 5)).sum().backward()
    optimiser.step()
    state = optimiser.state_dict()["state"]
    saved = {f"{i}.{name}": value.contiguous() for i, values in state.items() for name, value in values.items()}
    fresh = torch.optim.AdamW(network.parameters(), fused=True)
    recipe_state.restore_optimiser(fresh, saved)
    for parameter in network.parameters():
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(fresh.state[parameter][name], optimiser.state[parameter][name])
            assert fresh.state[parameter][name].stride() == parameter.stride()
        assert float(fresh.state[parameter]["step"]) == 1
