"""The first line of an exception's message."""

import pytest

from training.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "CUDA error: an illegal memory access\nCompile with TORCH_USE_CUDA_DSA",
            "CUDA error: an illegal memory access",
        ),
        ("\n  no such field \n", "no such field"),
        ("", "ValueError"),
    ],
)
def test_the_first_line_is_of_the_message_or_else_the_type(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line
