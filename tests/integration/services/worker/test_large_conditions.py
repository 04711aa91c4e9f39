"""Large images as conditions keep neither the worker's watchdog nor other jobs waiting."""

import numpy as np
import pytest
from PIL import Image

from services.registry import aliases, releases
from tests.support.images import as_base64, image_file
from tests.support.releases import make_tiny_release
from tests.support.stack import Process, Stack

MODEL = "tiny-sr"


@pytest.fixture(scope="module")
def resolution_release(stack: Stack) -> None:
    """A release that takes a low-resolution image of any size."""
    conditioners = {"low_resolution": {"type": "low_resolution", "channels": 3}}
    folder = make_tiny_release(stack.root / MODEL, name=MODEL, conditioners=conditioners, in_channels=5)
    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), folder)
        aliases.promote(connection, f"{name}@{version}", "production")


@pytest.mark.usefixtures("resolution_release")
def test_large_images_do_not_hold_up_the_engine(stack: Stack, dispatcher: Process) -> None:
    """Eight files of 48 KB, 128 million pixels in all. A step limit of 10 seconds ends a process whose engine waits."""
    large = [as_base64(image_file(Image.new("RGB", (4096, 4096), (shade, 30, 7)))) for shade in range(8)]
    small = as_base64(image_file(np.zeros((8, 8, 3), np.uint8)))
    with stack.process("worker", DARKROOM_STEP_LIMIT_S="10", DARKROOM_ROWS="32") as worker:
        stack.wait(stack.submit({"items": [{"low_resolution": small}], "steps": 1}, model=MODEL))
        slow = stack.submit({"items": [{"low_resolution": image} for image in large], "steps": 1}, model=MODEL)
        stack.wait(slow, "running")
        quick = stack.submit({"items": [{"low_resolution": small}], "steps": 1}, model=MODEL)
        assert stack.wait(quick).state == "succeeded"
        assert stack.job(slow).state == "running"  # what came after it is not behind it
        assert stack.wait(slow).state == "succeeded"
        assert worker.child.poll() is None
