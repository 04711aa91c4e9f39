"""Errors of a device: whether there is no memory left, or it has failed."""

import pytest
import torch

from services.worker import device_faults
from services.worker.conditions import each
from services.worker.device_faults import DeviceFault, OutOfMemory, check_refusals, named_faults

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
]


@pytest.mark.parametrize("error", FULL, ids=range(len(FULL)))
def test_a_full_device_is_no_fault_whoever_asked_for_memory(error: Exception) -> None:
    with pytest.raises(OutOfMemory), named_faults():
        raise error


@pytest.mark.parametrize("error", FULL, ids=range(len(FULL)))
def test_a_full_device_is_not_blamed_on_an_image(error: Exception) -> None:
    def fail(images: object) -> list[None]:
        raise error

    with pytest.raises(type(error)):
        each(fail, [1, 2])


def test_a_device_that_failed_and_a_mistake_are_told_apart() -> None:
    with pytest.raises(DeviceFault, match=r"^CUDA error: an illegal memory access"), named_faults():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match=r"^shapes"), named_faults():
        raise RuntimeError("shapes do not fit")


def test_memory_that_cudnn_was_refused_is_an_error_though_cudnn_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with another algorithm, and so with other bytes."""
    refused = {"num_ooms": 0}
    monkeypatch.setattr(device_faults, "_seen", 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda: refused)
    check_refusals("the network")
    refused["num_ooms"] += 2
    with pytest.raises(OutOfMemory, match="took another algorithm") as raised:
        check_refusals("the decoder")
    assert raised.value.part == "the decoder"
    check_refusals("the network")  # it is said once
    refused["num_ooms"] += 1
    with pytest.raises(OutOfMemory, match="Tried to allocate"), named_faults():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    check_refusals("the network")  # an error has come of that one
