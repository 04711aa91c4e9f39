"""What a capture that ends early says. Captures themselves need a GPU: tests/gpu."""

import pytest
import torch

from training.model.captured_step import original_error


def test_a_capture_that_ends_early_says_why() -> None:
    """CUDA then refuses to end the capture, which would read as a failed device."""

    def capture() -> None:
        try:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        finally:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"), original_error():
        capture()


def test_any_other_error_stays() -> None:
    with pytest.raises(torch.AcceleratorError, match="illegal"), original_error():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
