"""Inputs that are gzip files, or all objects under a prefix, with keys in any script, through the real processes."""

import gzip
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.images import random_labels
from tests.support.releases import MAP_MODEL
from tests.support.stack import Process, Stack

ODD_KEY = "inputs/default/ключ +%41?#&'\"/图 é{}\\ 🐈.jsonl"


# What is refused for its size is small here.
LIMITS = """
from services.job_requests import gzip_stream, packed_input
gzip_stream.FREE, packed_input.MAX_OBJECTS = 4 * 2**20, 20
"""


@pytest.fixture(scope="module")
def dispatcher(stack: Stack) -> Iterator[Process]:
    """A dispatcher with small limits."""
    with stack.process("dispatcher", first=LIMITS) as process:
        process.wait_for("serves")
        yield process


def lines(labels: Any, prefix: str = "item") -> bytes:
    return b"".join(
        json.dumps({"class_label": label % 10, "id": f"{prefix}-{label}"}).encode() + b"\n" for label in labels
    )


def put(stack: Stack, key: str, body: bytes) -> str:
    stack.store().put(key, body, content_type="application/octet-stream")
    return key


def run(stack: Stack, **request: Any) -> Any:
    return stack.wait(stack.submit({"steps": 1, "seed": 5, **request}))


def manifest_of(stack: Stack, job_id: uuid.UUID) -> Any:
    return json.loads(stack.store().get(stack.job(job_id).manifest_key))


def listing(stack: Stack, job_id: uuid.UUID) -> list[dict[str, Any]]:
    store = stack.store()
    keys = manifest_of(stack, job_id)["outputs"]
    return [json.loads(line) for key in keys for line in store.get(key).splitlines()]


def test_a_gzip_file_gives_the_images_of_its_lines_also_when_it_is_gone_later(
    stack: Stack, dispatcher: Process
) -> None:
    """In two members, as two files that were joined; the second has no newline at its end."""
    plain = lines(range(40))
    first, last = plain[:900], plain[900:-1]
    key = put(stack, "inputs/default/packed.jsonl.gz", gzip.compress(first) + gzip.compress(last))
    packed = stack.submit({"input_uri": f"s3://darkroom/{key}", "images_per_item": 2, "steps": 1, "seed": 5})
    stack.wait(packed, "planned")
    stack.store().delete([key])
    with stack.process("worker"):
        assert stack.wait(packed).state == "succeeded"
        row = run(stack, input_uri=put(stack, "inputs/default/plain.jsonl", plain), images_per_item=2)
    assert row.state == "succeeded"
    assert stack.images(packed) == stack.images(row.id)
    assert [line["id"] for line in listing(stack, packed)] == [f"item-{i}" for i in range(40) for _ in range(2)]
    assert stack.job(packed).reason is None


def test_the_objects_under_a_prefix_follow_each_other_by_key(
    stack: Stack, dispatcher: Process, worker: Process
) -> None:
    folder = "inputs/default/night/"
    put(stack, f"{folder}b.jsonl", lines([3, 4], "b").removesuffix(b"\n"))
    put(stack, f"{folder}a/z.jsonl.gz", gzip.compress(lines([1], "a")))
    put(stack, f"{folder}empty.jsonl", b"")
    put(stack, f"{folder}é.jsonl", lines([5], "e") + b'{"class_label": 77}\n' + lines([6], "e"))
    put(stack, "inputs/default/nightly/other.jsonl", lines([9]))
    row = run(stack, input_uri=f"s3://darkroom/{folder}")
    assert (row.state, row.total, row.failed) == ("partial", 6, 1)
    ids = [line["id"] for line in listing(stack, row.id)]
    assert ids == ["a-1", "b-3", "b-4", "e-5", "e-6"]
    (error,) = stack.store().get(manifest_of(stack, row.id)["errors"]).splitlines()
    reason = "line 2 of 'é.jsonl': class_label: 77 is not allowed; permitted: an integer from 0 to 9"
    assert json.loads(error)["error"] == reason
    assert row.reason == f"{reason} (1 of 6 images)"
    reference = manifest_of(stack, row.id)["plan"]["input"]
    assert json.loads(stack.store().get(reference["objects"])) == {
        "prefix": folder,
        "objects": [{"key": f"{folder}{name}", "first": first}
                    for name, first in (("a/z.jsonl.gz", 0), ("b.jsonl", 1), ("é.jsonl", 3))],
    }  # fmt: skip


def test_keys_may_have_any_characters(stack: Stack, dispatcher: Process, worker: Process) -> None:
    put(stack, ODD_KEY, lines([1, 2]))
    for uri in (f"s3://darkroom/{ODD_KEY}", ODD_KEY, f"{ODD_KEY.rsplit('/', 1)[0]}/"):
        row = run(stack, input_uri=uri)
        assert (row.state, row.total) == ("succeeded", 2), row.reason


@pytest.mark.usefixtures("map_release")
def test_images_in_conditions_may_have_such_keys_too(stack: Stack, dispatcher: Process, worker: Process) -> None:
    uri = stack.upload("карта №1 +.png", random_labels(3))
    job_id = stack.submit({"items": [{"semantic_map": uri}], "steps": 1}, model=MAP_MODEL)
    assert stack.wait(job_id).state == "succeeded", stack.job(job_id).reason


def bomb() -> bytes:
    """A gzip file of 6 KB with 6 MiB."""
    return gzip.compress(bytes(6 * 2**20))


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("bomb.gz", bomb, "and unpacks to more than 4194304; permitted: 4194304, or 100 times its own size"),
        ("short.gz", lambda: gzip.compress(lines(range(99)))[:-30], "is a gzip file that ends early; upload it again"),
        ("twice.gz", lambda: gzip.compress(gzip.compress(lines([1]))), "is a gzip file within a gzip file; permitted"),
        ("nothing.gz", lambda: gzip.compress(b""), "has no lines; give one item a line"),
        ("newlines.gz", lambda: gzip.compress(b"\n" * 1_000_001), "1000001 images are not allowed; permitted: at most"),
        ("none/", None, "there is no object under 'inputs/default/none/', or the service may not list it"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_cannot_be_unpacked_rejects_the_job_and_leaves_nothing(
    stack: Stack, dispatcher: Process, name: str, body: Any, reason: str, dry_run: bool
) -> None:
    key = f"inputs/default/{name}"
    if body is not None:
        put(stack, key, body())
    job_id = stack.submit({"input_uri": key, "dry_run": dry_run})
    row = stack.wait(job_id)
    assert row.state == "rejected"
    assert reason in row.reason
    assert list(stack.store().keys(f"outputs/default/{job_id}/")) == []
    uploads = stack.store().client.list_multipart_uploads(Bucket="darkroom", Prefix=f"outputs/default/{job_id}/")
    assert uploads.get("Uploads", []) == []


def test_a_dry_run_reads_packed_inputs_and_stores_nothing(stack: Stack, dispatcher: Process) -> None:
    key = put(stack, "inputs/default/dry.gz", gzip.compress(lines(range(5)) + b"oops\n"))
    row = run(stack, input_uri=key, dry_run=True)
    assert row.state == "succeeded", row.reason
    assert (row.estimate["images"], row.estimate["invalid_items"]) == (5, 1)
    assert list(stack.store().keys(f"outputs/default/{row.id}/")) == []


def test_a_prefix_of_too_many_objects_is_refused(stack: Stack, dispatcher: Process) -> None:
    store = stack.store()
    for number in range(21):
        store.client.put_object(Bucket=store.bucket, Key=f"inputs/default/crowd/{number}", Body=b"{}")
    row = run(stack, input_uri="inputs/default/crowd/")
    assert (row.state, row.reason) == (
        "rejected", "input_uri: 'inputs/default/crowd/' has more objects than permitted: 20"
    )  # fmt: skip
    store.delete(store.keys("inputs/default/crowd/"))
