"""Steps that are compiled and captured as one graph. A CPU rehearses them eagerly: compiling takes it a minute."""

import numpy as np

from tests.benchmarks.gpu_timing import DEVICE
from tests.support.gpu import check_bytes, check_no_step_waits, pixels, psnr

COMPILED = "-compiled" if DEVICE.type == "cuda" else ""


def test_no_step_of_a_captured_graph_waits_for_the_device() -> None:
    check_no_step_waits("bf16" + COMPILED)


def test_bytes_do_not_depend_on_place_or_company_in_a_captured_graph() -> None:
    check_bytes("bf16" + COMPILED)


def test_a_captured_graph_gives_the_images_of_eager_steps() -> None:
    assert np.abs(pixels("fp32" + COMPILED) - pixels("fp32")).max() <= 2, "of 255"


def test_compiled_bf16_is_close_to_fp32() -> None:
    assert psnr(pixels("bf16" + COMPILED), pixels("fp32")) > 35
