"""Checks that the configured device of a worker works on this machine."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from services.errors import CommandError
from training.errors import first_line

NODES = Path("/dev")  # of the devices; a container has those that were assigned to it
NONE_VISIBLE = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that hide every GPU


def check_device(device: str, *, nodes: Path = NODES, environ: Mapping[str, str] = os.environ) -> None:
    """Raise CommandError if `device` is "cuda", or "auto" where there is a GPU, and CUDA does not work.

    An old driver is the usual reason. Without this, "auto" would serve on the CPU without a word. A GPU that
    CUDA_VISIBLE_DEVICES hides does not count.
    """
    if device == "cpu":
        return
    found = None if environ.get("CUDA_VISIBLE_DEVICES") in NONE_VISIBLE else find_gpu(nodes)
    if device == "auto" and found is None:
        return
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        needed = f" for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        problem = f"auto found {found}, which cannot be used"
        if device == "cuda":
            problem = "cuda does not work on this machine"
        raise CommandError(
            f"DARKROOM_DEVICE: {problem} ({first_line(error)}). Give the node a driver{needed}, "
            "use a build of torch with CUDA, or set DARKROOM_DEVICE to cpu"
        ) from None


def find_gpu(nodes: Path = NODES) -> Path | None:
    """Return the device node of an NVIDIA GPU that this process was given, or None."""
    return next(iter(sorted(nodes.glob("nvidia[0-9]*"))), None)
