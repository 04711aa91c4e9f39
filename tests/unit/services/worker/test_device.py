"""A worker that is told to use a GPU does not serve on the CPU instead."""

import pytest
import torch

from services.errors import CommandError
from services.worker.device import check_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_cannot_be_used_is_an_error_that_says_why() -> None:
    with pytest.raises(
        CommandError, match=r"DARKROOM_DEVICE: cuda does not work on this machine \(.+\)\. Give the node"
    ):
        check_device("cuda")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_other_devices_need_nothing(device: str) -> None:
    check_device(device)
