"""Each part of the service does no more in S3 than the policy that docs/security.md gives it."""

import gzip
import json
from pathlib import Path

import botocore.client
import pytest

from tests.support.commands import Darkroom
from tests.support.policies import assert_permitted
from tests.support.stack import Stack
from tests.support.tenants import QUICK, administrator

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
