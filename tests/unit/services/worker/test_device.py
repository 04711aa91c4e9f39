"""A worker that has a GPU, or is told to use one, does not serve on the CPU instead."""

from pathlib import Path

import pytest
import torch

from services.errors import CommandError
from services.worker.device import check_device

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """Device nodes as the container of a pod with one GPU has them."""
    for name in ("nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


@without_gpu
def test_a_gpu_that_cannot_be_used_is_an_error_that_says_why() -> None:
    with pytest.raises(
        CommandError, match=r"DARKROOM_DEVICE: cuda does not work on this machine \(.+\)\. Give the node"
    ):
        check_device("cuda")


@without_gpu
def test_auto_does_not_fall_back_to_the_cpu_beside_a_gpu_whose_driver_is_broken(nodes: Path) -> None:
    with pytest.raises(
        CommandError, match=r"DARKROOM_DEVICE: auto found .*/nvidia3, which cannot be used \(.+\)\. .* to cpu"
    ):
        check_device("auto", nodes=nodes, environ={})


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_a_gpu_that_is_hidden_does_not_count(nodes: Path, hidden: str) -> None:
    check_device("auto", nodes=nodes, environ={"CUDA_VISIBLE_DEVICES": hidden})


def test_a_machine_without_a_gpu_needs_nothing(tmp_path: Path, nodes: Path) -> None:
    (nodes / "nvidia3").unlink()
    check_device("auto", nodes=nodes, environ={})
    check_device("cpu", nodes=nodes, environ={})
