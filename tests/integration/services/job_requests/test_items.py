"""Jobs whose items are lines of an object in S3, through the real processes."""

import json
from typing import Any

import pytest

from tests.support.stack import Process, Stack

BAD = {3: "{oops", 17: '{"class_label": 99}', 40: "", 41: '{"class_label": 1, "id": "item-0"}'}


def put(stack: Stack, key: str, lines: list[str]) -> str:
    stack.store().put(key, "\n".join(lines).encode(), content_type="application/jsonl")
    return key


def good_lines(count: int) -> list[str]:
    return [json.dumps({"class_label": i % 10, "id": f"item-{i}", "metadata": {"n": i}}) for i in range(count)]


def listing(stack: Stack, key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.store().get(key).decode().splitlines()]


def test_the_lines_of_a_replaced_input_are_not_mixed(stack: Stack, dispatcher: Process) -> None:
    """An input that changes after planning fails its images, and their errors say so."""
    key = put(stack, "inputs/default/changing.jsonl", good_lines(4))
    job_id = stack.submit({"input_uri": key, "steps": 1})
    stack.wait(job_id, "planned")
    put(stack, key, good_lines(8))
    with stack.process("worker"):
        row = stack.wait(job_id)
    assert (row.state, row.failed) == ("failed", 4)
    assert "was replaced or removed after the job was planned" in stack.outputs(job_id)[0].error


@pytest.mark.parametrize("per_item", [1, 3, 20])
def test_valid_lines_are_sampled_and_invalid_ones_are_listed_by_number(
    stack: Stack, dispatcher: Process, worker: Process, per_item: int
) -> None:
    lines = good_lines(45)
    for number, line in BAD.items():
        lines[number] = line
    key = put(stack, f"inputs/default/mixed-{per_item}.jsonl", lines)
    request = {"input_uri": f"s3://darkroom/{key}", "images_per_item": per_item, "steps": 1, "seed": 1}
    job_id = stack.submit(request)
    row = stack.wait(job_id)
    assert (row.state, row.total) == ("partial", 45 * per_item)
    assert (row.succeeded, row.failed) == (41 * per_item, 4 * per_item)
    manifest = json.loads(stack.store().get(row.manifest_key))
    made = listing(stack, manifest["outputs"][0])
    assert [line["item"] for line in made] == [i for i in range(45) if i not in BAD for _ in range(per_item)]
    assert all(line["id"] == f"item-{line['item']}" and line["metadata"] == {"n": line["item"]} for line in made)
    assert all(line["seed"] == 1 + line["index"] for line in made)
    errors = listing(stack, manifest["errors"])
    assert sorted({line["item"] for line in errors}) == list(BAD)
    reasons = {line["item"]: line["error"] for line in errors}
    assert reasons[3].startswith("line 4: not JSON")
    assert reasons[17] == "line 18: class_label: 99 is not allowed; permitted: an integer from 0 to 9"
    assert reasons[40].startswith("line 41: not JSON")
    assert reasons[41] == "line 42: id: 'item-0' is not unique; permitted: a different id in each line"


def test_lines_and_inline_items_give_the_same_images(stack: Stack, dispatcher: Process, worker: Process) -> None:
    lines = good_lines(20)
    key = put(stack, "inputs/default/same.jsonl", lines)
    common = {"images_per_item": 2, "steps": 2, "seed": 5}
    by_line = stack.submit({"input_uri": key, **common})
    inline = stack.submit({"items": [json.loads(line) for line in lines], **common})
    stack.wait(by_line)
    stack.wait(inline)
    assert stack.images(by_line) == stack.images(inline)


@pytest.mark.parametrize(
    ("key", "lines", "reason"),
    [
        ("inputs/default/none.jsonl", None, "s3://darkroom/inputs/default/none.jsonl does not exist"),
        ("inputs/default/empty.jsonl", [], "has no lines; give one item a line"),
        ("inputs/other/theirs.jsonl", good_lines(1), "is not allowed; permitted: under inputs/default"),
        ("releases/blobs/x", None, "is not allowed; permitted: under inputs/default"),
    ],
)
def test_an_input_that_cannot_be_read_rejects_the_job(
    stack: Stack, dispatcher: Process, key: str, lines: list[str] | None, reason: str
) -> None:
    if lines is not None:
        put(stack, key, lines)
    row = stack.wait(stack.submit({"input_uri": key}), timeout=30)
    assert row.state == "rejected"
    assert reason in row.reason


def test_a_job_without_a_valid_line_fails_with_a_reason_for_each_line(stack: Stack, dispatcher: Process) -> None:
    key = put(stack, "inputs/default/bad.jsonl", ["x"] * 700)
    row = stack.wait(stack.submit({"input_uri": key}), timeout=30)
    assert (row.state, row.total, row.failed) == ("failed", 700, 700)
    errors = listing(stack, json.loads(stack.store().get(row.manifest_key))["errors"])
    assert [line["error"][:8] for line in errors[:2]] == ["line 1: ", "line 2: "]
    assert len(errors) == 700


def test_a_job_of_too_many_lines_is_rejected(stack: Stack, dispatcher: Process) -> None:
    key = put(stack, "inputs/default/many.jsonl", good_lines(1200))
    row = stack.wait(stack.submit({"input_uri": key, "images_per_item": 1000}), timeout=60)
    assert row.state == "rejected"
    assert "1001000 images are not allowed; permitted: at most 1000000" in row.reason
    assert stack.outputs(row.id) == []
