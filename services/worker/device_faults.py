"""Classifies errors of a device: out of memory, or broken."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from training.errors import DarkroomError, first_line

TOO_LARGE = "It needs a worker with more memory, or DARKROOM_PROFILE=bf16, which takes half"

Part = Literal["the network", "the decoder"]

# In the messages of errors that are no torch.OutOfMemoryError: those of torch on a CPU, of cuBLAS and cuDNN, which have
# memory of their own, of Triton, and of CUDA where torch's allocator did not ask, such as for a module or a graph.
FULL = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "[CUDA]: out of memory",
    "CUDA error: out of memory",
)


_seen = 0  # refusals of torch's allocator that ended in an error


class OutOfMemory(DarkroomError):
    """The device has no memory for this many rows. part: the part of the model that needed it."""

    def __init__(self, message: str, part: Part = "the network") -> None:
        super().__init__(message)
        self.part: Part = part


class DeviceFault(DarkroomError):
    """The device has failed, and this process cannot use it any more."""


class UnstableProfile(DarkroomError):
    """Nothing may be served with this profile: it fails its self-test, or its networks cannot be compiled."""


@contextmanager
def named_faults(part: Part = "the network") -> Iterator[None]:
    """Raise torch's errors as OutOfMemory or DeviceFault."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            _count_refusals()
            raise OutOfMemory(first_line(error), part) from None
        if isinstance(error, torch.AcceleratorError):  # an illegal access or ECC error: CUDA then refuses every call
            raise DeviceFault(first_line(error)) from None
        raise


def check_refusals(part: Part) -> None:
    """Raise OutOfMemory if torch's allocator has refused memory since the last call and no error has come of it.

    cuDNN then takes an algorithm that needs less memory, without a word, and its results have other last digits.
    """
    if _count_refusals():
        raise OutOfMemory(
            "cuDNN was refused memory and took another algorithm, which changes the bytes of images", part
        )


def _count_refusals() -> int:
    """Return how often torch's allocator has refused memory since the last call."""
    global _seen  # as the allocator, it belongs to the process
    before = _seen
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        _seen = torch.cuda.memory_stats_as_nested_dict().get("num_ooms", 0)  # in no order, so that it takes no time
    return _seen - before


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device, or the host, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


def concerns_device(error: BaseException) -> bool:
    """Return whether an error concerns the whole device rather than what was computed: no memory, or a failure."""
    return is_out_of_memory(error) or isinstance(error, torch.AcceleratorError)
