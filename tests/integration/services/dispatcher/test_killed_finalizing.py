"""A dispatcher that is killed while it finalizes a job leaves it to another one, which loses nothing."""

import json
import signal
import uuid

import pytest
from sqlalchemy import Engine

from tests.support.freezing import freeze_in
from tests.support.job_queue import claim, settle_shard, submit_planned
from tests.support.stack import Stack
from tests.support.tenants import QUICK
from tests.support.thoroughness import THOROUGH

# The objects are put in this order: the listing of failed images, that of stored ones, the manifest.
PUTS = [("object_store", "ObjectStore.put_if_unchanged", 1, True)]
if THOROUGH:
    PUTS += [
        ("object_store", "ObjectStore.put_if_unchanged", 1, False),
        ("streaming", "StreamedObject.__exit__", 1, True),
        ("streaming", "StreamedObject.__exit__", 1, False),
        ("streaming", "StreamedObject.__exit__", 2, True),
        ("streaming", "StreamedObject.__exit__", 2, False),
    ]


@pytest.mark.parametrize(("module", "function", "call", "before"), PUTS)
def test_a_job_whose_dispatcher_is_killed_at_a_put_is_finalized_by_another(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, module: str, function: str, call: int, before: bool
) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    killing = freeze_in(f"services.storage.{module}", function, before=before, call=call, number=signal.SIGKILL)
    with stack.process("dispatcher", first=killing, **QUICK) as killed:
        assert killed.child.wait(60) == -signal.SIGKILL, killed.log.read_text()
    assert stack.job(job_id).state == "finalizing"
    with stack.process("dispatcher", **QUICK):
        assert stack.wait(job_id, timeout=60).state == "succeeded"
    store = stack.store()
    manifest = json.loads(store.get(stack.job(job_id).manifest_key))
    lines = [json.loads(line) for key in manifest["outputs"] for line in store.get(key).splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    assert manifest["counts"] == {"total": 40, "succeeded": 40, "failed": 0}
    assert store.get(manifest["errors"]) == b""
