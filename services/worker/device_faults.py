"""What can go wrong with a device, in the worker's terms."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.errors import DarkroomError, first_line


class OutOfMemory(DarkroomError):
    """The device has no memory for a step of so many rows."""


class DeviceFault(DarkroomError):
    """The device has failed, and this process cannot use it any more."""


class UnstableProfile(DarkroomError):
    """The bits of a row depend on its place or on the other rows, so nothing may be served with this profile."""


@contextmanager
def named_faults() -> Iterator[None]:
    """Raise torch's errors as OutOfMemory or DeviceFault."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(first_line(error)) from None
    except torch.AcceleratorError as error:  # an illegal access or ECC error: CUDA then refuses every call
        raise DeviceFault(first_line(error)) from None
