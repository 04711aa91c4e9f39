"""Images in conditions, in the request or in an object, and which objects a tenant may not read that way."""

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.job_requests import condition_images
from services.registry import aliases, releases
from tests.support.images import decompression_bomb
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack

MODEL = "tiny-map"


@pytest.fixture(scope="module")
def release(stack: Stack) -> None:
    """A release that takes a semantic map of 32x32 pixels and four classes."""
    conditioners = {"semantic_map": {"type": "semantic_map", "classes": 4, "channels": 2, "stages": 2}}
    folder = make_tiny_release(stack.root / MODEL, name=MODEL, conditioners=conditioners, in_channels=4)
    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), folder)
        aliases.promote(connection, f"{name}@{version}", "production")


def labels(seed: int) -> bytes:
    """Return a map of random classes as a PNG."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 4, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def upload(stack: Stack, name: str, body: bytes) -> str:
    """Store an object under the tenant's read prefix. Returns its URI."""
    key = f"inputs/default/{name}"
    stack.store().put(key, body, content_type="image/png")
    return str(stack.store().uri(key))


@pytest.mark.usefixtures("release", "dispatcher", "worker")
def test_an_object_gives_the_same_image_as_its_bytes_in_the_request(stack: Stack) -> None:
    bodies = [labels(seed) for seed in (1, 2)]
    inline = [{"semantic_map": base64.b64encode(body).decode(), "seed": 5} for body in bodies]
    stored = [{"semantic_map": upload(stack, f"{i}.png", body), "seed": 5} for i, body in enumerate(bodies)]
    upload(stack, "maps.jsonl", "\n".join(json.dumps(item) for item in stored).encode())
    requests = ({"items": inline}, {"items": stored}, {"input_uri": "inputs/default/maps.jsonl"})
    jobs = [stack.submit({**request, "steps": 2}, model=MODEL) for request in requests]
    for job_id in jobs:
        assert stack.wait(job_id).state == "succeeded"
    sums = [[output.sha256 for output in stack.outputs(job_id)] for job_id in jobs]
    assert sums[0] == sums[1] == sums[2]
    assert sums[0][0] != sums[0][1]  # the map matters


@pytest.mark.usefixtures("release", "dispatcher", "worker")
def test_an_object_that_cannot_be_used_fails_alone(stack: Stack) -> None:
    bad = {
        "gone": (stack.store().uri("inputs/default/gone.png"), "does not exist, or the service may not read it"),
        "bomb": (
            upload(stack, "bomb.png", decompression_bomb(40_000)),
            "not a readable image|40000x40000 pixels is not allowed",
        ),
        "huge": (
            upload(stack, "huge.png", bytes(condition_images.MAX_BYTES + 1)),
            "bytes; permitted: at most 16777216",
        ),
        "text": (upload(stack, "text.png", b"hello"), "not a readable image; permitted: PNG, JPEG, WEBP"),
        "inline bomb": (base64.b64encode(decompression_bomb(5000)).decode(), "5000x5000 pixels is not allowed"),
        "classes": (upload(stack, "classes.png", _grey(9)), "label 9 is not allowed"),
    }
    items: list[dict[str, Any]] = [{"semantic_map": upload(stack, "good.png", labels(3)), "id": "good"}]
    items += [{"semantic_map": value, "id": name} for name, (value, _) in bad.items()]
    job_id = stack.submit({"items": items, "steps": 1, "images_per_item": 2}, model=MODEL)
    row = stack.wait(job_id)
    assert (row.state, row.succeeded, row.failed) == ("partial", 2, 2 * len(bad))
    for output in stack.outputs(job_id)[2:]:
        assert re.search(bad[items[output.item]["id"]][1], output.error), output.error
        assert "semantic_map" in output.error


def _grey(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32), level, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.usefixtures("release", "dispatcher", "worker")
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
    store.put("inputs/other/secret.png", labels(9), content_type="image/png")
    uri = uri.format(bucket=store.bucket)
    row = stack.wait(stack.submit({"items": [{"semantic_map": uri}], "steps": 1}, model=MODEL))
    assert row.state == "rejected"
    assert row.reason.startswith("items[0].semantic_map: ")
    assert "is not allowed; permitted: " in row.reason
    lines = [json.dumps({"semantic_map": uri}), json.dumps({"semantic_map": upload(stack, "mine.png", labels(4))})]
    upload(stack, "smuggled.jsonl", "\n".join(lines).encode())
    job_id = stack.submit({"input_uri": "inputs/default/smuggled.jsonl", "steps": 1}, model=MODEL)
    row = stack.wait(job_id)
    assert (row.state, row.succeeded) == ("partial", 1)
    assert stack.outputs(job_id)[0].error.startswith("line 1: semantic_map: ")


@pytest.mark.usefixtures("release", "dispatcher", "worker")
def test_a_condition_of_the_wrong_type_is_refused_by_name(stack: Stack) -> None:
    row = stack.wait(stack.submit({"items": [{"semantic_map": 5}], "steps": 1}, model=MODEL))
    assert row.reason == (
        "items[0].semantic_map: 5 is not allowed; permitted: a base64-encoded image file, or the s3:// URI of one"
    )
