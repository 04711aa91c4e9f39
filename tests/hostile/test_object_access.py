"""Each part of the service does no more in S3 than the policy that docs/security.md gives it."""

import gzip
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import botocore.client
import pytest

from tests.support.commands import Darkroom
from tests.support.stack import Stack
from tests.support.tenants import QUICK, administrator

ROOT = Path(__file__).parents[2]
ACTIONS = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "HeadBucket": "s3:ListBucket",
}
RECORD = """
import botocore.client
call = botocore.client.BaseClient._make_api_call
def recording(self, operation, arguments):
    keys = [one["Key"] for one in arguments.get("Delete", {{}}).get("Objects", ())] or [arguments.get("Key")]
    with open({path!r}, "a") as file:
        file.writelines(f"{{operation}} {{key or ''}}\\n" for key in keys)
    return call(self, operation, arguments)
botocore.client.BaseClient._make_api_call = recording
"""


def policy(part: str) -> list[tuple[str, str]]:
    """Return the pairs of an action and a pattern of resources that the document permits a part."""
    document = (ROOT / "docs/security.md").read_text()
    block = re.search(rf"{part}.*?```json\n(.*?)```", document.split("## S3 policies")[1], re.S)
    assert block is not None
    statements = json.loads(block[1])["Statement"]
    return [(action, resource) for one in statements for action in one["Action"] for resource in one["Resource"]]


def assert_permitted(record: Path, part: str) -> None:
    permitted = policy(part)
    lines = set(record.read_text().splitlines())
    assert lines
    for line in sorted(lines):
        operation, _, key = line.partition(" ")
        action, resource = ACTIONS[operation], f"arn:aws:s3:::BUCKET/{key}".removesuffix("/")
        assert any(action == one and fnmatchcase(resource, pattern) for one, pattern in permitted), line


def test_the_dispatcher_and_the_worker_keep_to_their_policies(stack: Stack, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"class_label": n % 10, "id": f"n{n}"}) + "\n" for n in range(3))
    records = {name: tmp_path / name for name in ("dispatcher", "worker")}
    first = {name: RECORD.format(path=str(path)) for name, path in records.items()}
    with (
        stack.process("dispatcher", first=first["dispatcher"], **QUICK),
        stack.process("worker", first=first["worker"], DARKROOM_CACHE_DIR=str(tmp_path / "cache"), **QUICK),
    ):
        jobs = [
            stack.submit({"input_uri": stack.upload("policies.jsonl", lines.encode()), "steps": 2}),
            stack.submit({"items": [{"class_label": 1}], "steps": 2, "output": {"archive": "tar"}}),
            stack.submit({"input_uri": "inputs/default/missing.jsonl"}),
            stack.submit({"input_uri": stack.upload("policies/a.gz", gzip.compress(lines.encode())), "steps": 2}),
            stack.submit({"input_uri": "inputs/default/policies/", "steps": 2}),
        ]
        states = ["succeeded", "succeeded", "rejected", "succeeded", "succeeded"]
        assert [stack.wait(job_id).state for job_id in jobs] == states
    assert_permitted(records["dispatcher"], "The dispatcher")
    assert_permitted(records["worker"], "A worker")


def test_pruning_keeps_to_its_policy(
    stack: Stack, darkroom_here: Darkroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stack.process("dispatcher", **QUICK), stack.process("worker", **QUICK):
        job_id = stack.submit({"items": [{"class_label": 1}], "steps": 2})
        assert stack.wait(job_id).state == "succeeded"
    record = tmp_path / "pruner"
    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", botocore.client.BaseClient._make_api_call)
    exec(RECORD.format(path=str(record)), {})
    with administrator(stack) as owner:
        owner.execute("UPDATE jobs SET finished_at = now() - interval '2 days' WHERE id = %s", (job_id,))
        owner.execute("UPDATE tenants SET retention_days = 1 WHERE name = 'default'")
        try:
            assert f"deleted job {job_id}" in darkroom_here("prune").stdout
        finally:
            owner.execute("UPDATE tenants SET retention_days = NULL WHERE name = 'default'")
    assert_permitted(record, "The pruner")
