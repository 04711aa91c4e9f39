"""Whether the device that a worker is told to use works on this machine."""

import torch

from services.errors import CommandError
from training.errors import first_line


def check_device(device: str) -> None:
    """Raise CommandError if `device` is "cuda" and cannot be used, for example because the driver is too old."""
    if device != "cuda":
        return
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        needed = f" for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        raise CommandError(
            f"DARKROOM_DEVICE: cuda does not work on this machine ({first_line(error)}). "
            f"Give the node a driver{needed}, "
            "use a build of torch with CUDA, or set DARKROOM_DEVICE to cpu"
        ) from None
