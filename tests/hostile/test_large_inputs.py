"""Inputs of much that is nothing: tiny members, padding, an endless line, empty objects. None holds up the planner."""

import gzip

import pytest

from services.job_requests.items import CHUNK, InputObject
from services.job_requests.packed_input import InputPart, PackedInput
from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant

pytestmark = pytest.mark.long

ITEM = b'{"class_label":1,"steps":1}\n'


def put(stack: Stack, name: str, body: bytes) -> str:
    """Store an object of the attacker. Returns its key."""
    key = f"inputs/attacker/{name}"
    stack.store().put(key, body, content_type="application/octet-stream")
    return key


def test_a_line_of_members_of_one_byte_is_read_in_its_own_time(
    stack: Stack, service: tuple[Process, Process], attacker: Tenant, neighbour: Tenant
) -> None:
    """Two million members: a copy of the line for each of them would take minutes of the processor."""
    key = put(stack, "members.gz", gzip.compress(b"x") * 2_000_000 + gzip.compress(b"\n" + ITEM))
    job_id = attacker.submit({"input_uri": key, "dry_run": True})
    neighbour.assert_served()
    row = attacker.wait(job_id, timeout=60)
    assert row.state == "succeeded", row.reason


def test_each_piece_that_is_read_counts_as_progress(stack: Stack) -> None:
    """Without progress, a lease is not kept, a job cannot be cancelled, and a dispatcher looks stuck."""
    steps: list[None] = []

    def tick() -> None:
        steps.append(None)

    def packed(name: str, body: bytes) -> PackedInput:
        key = put(stack, name, body)
        return PackedInput(stack.store(), [InputPart(key, stack.store().etag(key) or "", len(body))])

    plain = InputObject.open(stack.store(), put(stack, "endless.jsonl", b"x" * (20 * CHUNK)))
    assert [line.body for line in plain.lines(tick=tick)] == [None]
    assert len(steps) >= 20
    steps.clear()
    unpacked = packed("endless.gz", gzip.compress(b"x" * (20 * CHUNK)))
    assert [line.body for line in unpacked.lines(tick=tick)] == [None]
    assert len(steps) >= 20
    steps.clear()
    padded = packed("padded.gz", gzip.compress(ITEM) + bytes(20 * CHUNK))
    assert padded.copy(lambda piece: None, 9, tick)[0] == 1
    assert len(steps) >= 20


def test_empty_objects_count_as_objects_of_a_prefix(
    stack: Stack, service: tuple[Process, Process], attacker: Tenant
) -> None:
    """Millions of them cost their owner nothing, and minutes of listing."""
    client, bucket = stack.store().client, stack.store().bucket
    for number in range(1_001):
        client.put_object(Bucket=bucket, Key=f"inputs/attacker/empty/{number}", Body=b"")
    put(stack, "empty/last", ITEM)
    row = attacker.wait(attacker.submit({"input_uri": "inputs/attacker/empty/"}))
    assert row.state == "rejected"
    assert row.reason == "input_uri: 'inputs/attacker/empty/' has more objects than permitted: 1000"
