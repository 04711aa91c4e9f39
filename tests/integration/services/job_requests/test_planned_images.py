"""What planning learns about images in conditions. No worker runs unless a test starts one."""

import json
import time
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from tests.support.images import as_base64, decompression_bomb, image_file, random_labels
from tests.support.releases import MAP_MODEL
from tests.support.stack import Stack


@pytest.mark.usefixtures("map_release", "dispatcher")
def test_an_image_in_the_request_that_cannot_be_used_is_refused_in_planning(stack: Stack) -> None:
    """Before any worker claims it: none runs in this test."""
    bad = {
        decompression_bomb(5000): "an image of 5000x5000 pixels is not allowed; permitted: at most 16777216 pixels",
        random_labels(1)[:-60]: "a broken file is not a readable image; permitted: PNG, JPEG, WEBP files",
        image_file(np.zeros((32, 32), np.uint8), "TIFF"): "is not a readable image; permitted: PNG, JPEG, WEBP files",
        image_file(np.full((32, 32), 9, np.uint8)): "label 9 is not allowed; permitted: an integer from 0 to 3",
        image_file(np.zeros((32, 32, 3), np.uint8)): "channels RGB is not allowed; permitted: greyscale or palette",
        image_file(np.zeros((9, 8), np.uint8)): "8 pixels wide and 9 high is not allowed; permitted: 32 wide and 32",
    }
    items = [{"semantic_map": as_base64(random_labels(3))}, *({"semantic_map": as_base64(body)} for body in bad)]
    row = stack.wait(stack.submit({"items": items, "steps": 1}, model=MAP_MODEL))
    assert row.state == "rejected"
    for number, (line, words) in enumerate(zip(row.reason.splitlines(), bad.values(), strict=True), start=1):
        assert line.startswith(f"items[{number}].semantic_map: ")
        assert words in line


@pytest.mark.usefixtures("map_release", "dispatcher")
@pytest.mark.parametrize("as_lines", [False, True])
def test_an_object_that_is_replaced_after_planning_fails_its_images(stack: Stack, as_lines: bool) -> None:
    """The images of the other object are stored, and no image shows the later content."""
    names = [f"kept-{as_lines}.png", f"replaced-{as_lines}.png"]
    items = [{"semantic_map": stack.upload(name, random_labels(seed))} for seed, name in enumerate(names)]
    request: dict[str, Any] = {"items": items}
    if as_lines:
        stack.upload("pinned.jsonl", "\n".join(map(json.dumps, items)).encode())
        request = {"input_uri": "inputs/default/pinned.jsonl"}
    job_id = stack.submit({**request, "images_per_item": 3, "steps": 1}, model=MAP_MODEL)
    stack.wait(job_id, "planned")
    time.sleep(1.1)  # S3 tells times in whole seconds
    stack.upload(names[1], random_labels(9))
    with stack.process("worker"):
        row = stack.wait(job_id)
    assert (row.state, row.succeeded, row.failed) == ("partial", 3, 3)
    words = f"semantic_map: {items[1]['semantic_map']} was replaced after the job was planned; submit the job again"
    assert [output.error for output in stack.outputs(job_id)] == [None] * 3 + [words] * 3


@pytest.mark.usefixtures("map_release", "dispatcher")
def test_a_plan_of_an_earlier_version_states_no_time_and_pins_nothing(stack: Stack) -> None:
    uri = stack.upload("unpinned.png", random_labels(1))
    job_id = stack.submit({"items": [{"semantic_map": uri}], "steps": 1}, model=MAP_MODEL)
    stack.wait(job_id, "planned")
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE jobs SET plan = plan - 'read_at' WHERE id = :id"), {"id": job_id})
    time.sleep(1.1)
    stack.upload("unpinned.png", random_labels(2))
    with stack.process("worker"):
        assert stack.wait(job_id).state == "succeeded"
