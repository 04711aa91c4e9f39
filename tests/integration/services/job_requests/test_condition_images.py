"""Images in conditions, in the request or in an object, and which objects a tenant may not read that way."""

import json
import re
from typing import Any

import numpy as np
import pytest

from services.job_requests import image_files
from tests.support.images import as_base64, decompression_bomb, image_file, random_labels
from tests.support.releases import MAP_MODEL
from tests.support.stack import Stack


@pytest.mark.usefixtures("map_release", "dispatcher", "worker")
def test_an_object_gives_the_same_image_as_its_bytes_in_the_request(stack: Stack) -> None:
    bodies = [random_labels(seed) for seed in (1, 2)]
    inline = [{"semantic_map": as_base64(body), "seed": 5} for body in bodies]
    stored = [{"semantic_map": stack.upload(f"{i}.png", body), "seed": 5} for i, body in enumerate(bodies)]
    stack.upload("maps.jsonl", "\n".join(json.dumps(item) for item in stored).encode())
    requests = ({"items": inline}, {"items": stored}, {"input_uri": "inputs/default/maps.jsonl"})
    jobs = [stack.submit({**request, "steps": 2}, model=MAP_MODEL) for request in requests]
    for job_id in jobs:
        assert stack.wait(job_id).state == "succeeded"
    sums = [[output.sha256 for output in stack.outputs(job_id)] for job_id in jobs]
    assert sums[0] == sums[1] == sums[2]
    assert sums[0][0] != sums[0][1]  # the map matters


@pytest.mark.usefixtures("map_release", "dispatcher", "worker")
def test_an_object_that_cannot_be_used_fails_alone(stack: Stack) -> None:
    bad = {
        "gone": (stack.store().uri("inputs/default/gone.png"), "does not exist, or the service may not read it"),
        "bomb": (
            stack.upload("bomb.png", decompression_bomb(40_000)),
            "an image of 1600000000 pixels is not allowed; permitted: at most 16777216 pixels",
        ),
        "huge": (
            stack.upload("huge.png", bytes(image_files.MAX_BYTES + 1)),
            "bytes; permitted: at most 16777216",
        ),
        "text": (
            stack.upload("text.png", b"hello"),
            "begins with b'hello' is not a readable image; permitted: PNG, JPEG, WEBP",
        ),
        "small": (stack.upload("small.png", image_file(np.zeros((8, 8), np.uint8))), "8 pixels wide and 8 high"),
        "colour": (stack.upload("colour.png", image_file(np.zeros((32, 32, 3), np.uint8))), "permitted: greyscale or"),
        "classes": (stack.upload("classes.png", image_file(np.full((32, 32), 9, np.uint8))), "label 9 is not allowed"),
    }
    items: list[dict[str, Any]] = [{"semantic_map": stack.upload("good.png", random_labels(3)), "id": "good"}]
    items += [{"semantic_map": value, "id": name} for name, (value, _) in bad.items()]
    job_id = stack.submit({"items": items, "steps": 1, "images_per_item": 2}, model=MAP_MODEL)
    row = stack.wait(job_id)
    assert (row.state, row.succeeded, row.failed) == ("partial", 2, 2 * len(bad))
    for output in stack.outputs(job_id)[2:]:
        assert re.search(bad[items[output.item]["id"]][1], output.error), output.error
        assert "semantic_map" in output.error


@pytest.mark.usefixtures("map_release", "dispatcher", "worker")
@pytest.mark.parametrize(
    "uri",
    [
        "s3://{bucket}/inputs/other/secret.png",
        "s3://{bucket}/inputs/default/../other/secret.png",
        "s3://{bucket}/outputs/default/x.png",
        "s3://{bucket}/blobs/sha256/00/0000",
        "s3://elsewhere/inputs/default/x.png",
    ],
)
def test_the_service_reads_nothing_that_the_tenant_may_not_read(stack: Stack, uri: str) -> None:
    store = stack.store()
    store.put("inputs/other/secret.png", random_labels(9), content_type="image/png")
    uri = uri.format(bucket=store.bucket)
    row = stack.wait(stack.submit({"items": [{"semantic_map": uri}], "steps": 1}, model=MAP_MODEL))
    assert row.state == "rejected"
    assert row.reason.startswith("items[0].semantic_map: ")
    assert "is not allowed; permitted: " in row.reason
    lines = [
        json.dumps({"semantic_map": uri}),
        json.dumps({"semantic_map": stack.upload("mine.png", random_labels(4))}),
    ]
    stack.upload("smuggled.jsonl", "\n".join(lines).encode())
    job_id = stack.submit({"input_uri": "inputs/default/smuggled.jsonl", "steps": 1}, model=MAP_MODEL)
    row = stack.wait(job_id)
    assert (row.state, row.succeeded) == ("partial", 1)
    assert stack.outputs(job_id)[0].error.startswith("line 1: semantic_map: ")


@pytest.mark.usefixtures("map_release", "dispatcher", "worker")
def test_a_condition_of_the_wrong_type_is_refused_by_name(stack: Stack) -> None:
    row = stack.wait(stack.submit({"items": [{"semantic_map": 5}], "steps": 1}, model=MAP_MODEL))
    assert row.reason == (
        "items[0].semantic_map: 5 is not allowed; permitted: a base64-encoded image file, or the s3:// URI of one"
    )


@pytest.mark.usefixtures("map_release", "dispatcher", "worker")
def test_the_dialects_of_base64_give_the_same_image(stack: Stack) -> None:
    text = as_base64(random_labels(7))
    dialects = [text, f"data:image/png;base64,{text}", text.translate(str.maketrans("+/", "-_")), text.rstrip("=")]
    items = [{"semantic_map": dialect, "seed": 1} for dialect in dialects]
    job_id = stack.submit({"items": items, "steps": 2}, model=MAP_MODEL)
    assert stack.wait(job_id).state == "succeeded"
    assert len({output.sha256 for output in stack.outputs(job_id)}) == 1
