"""What can go wrong with a device, in the worker's terms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from training.errors import DarkroomError, first_line

Part = Literal["the network", "the decoder"]

HOST_IS_FULL = "DefaultCPUAllocator"  # in the message of a RuntimeError, which torch raises on a CPU


class OutOfMemory(DarkroomError):
    """The device has no memory for so many rows. part: of the model, that asked for it."""

    def __init__(self, message: str, part: Part = "the network") -> None:
        super().__init__(message)
        self.part: Part = part


class DeviceFault(DarkroomError):
    """The device has failed, and this process cannot use it any more."""


class UnstableProfile(DarkroomError):
    """The bits of a row depend on its place or on the other rows, so nothing may be served with this profile."""


@contextmanager
def named_faults(part: Part = "the network") -> Iterator[None]:
    """Raise torch's errors as OutOfMemory or DeviceFault."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(first_line(error), part) from None
    except torch.AcceleratorError as error:  # an illegal access or ECC error: CUDA then refuses every call
        raise DeviceFault(first_line(error)) from None
    except RuntimeError as error:
        if HOST_IS_FULL not in str(error):
            raise
        raise OutOfMemory(first_line(error), part) from None
