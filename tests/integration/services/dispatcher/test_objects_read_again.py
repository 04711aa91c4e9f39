"""Planning and finalizing read objects again: they may be large, replaced, or no longer readable."""

import json
import re
import uuid

import pytest
from sqlalchemy import Engine

from services.dispatcher import finalizer, planner
from services.dispatcher.attempts import describe_failure
from services.job_queue.leases import Lease
from services.job_queue.outputs import Output
from services.job_requests.items import CHUNK
from services.storage.errors import ObjectStoreError
from tests.support.job_queue import claim, settle
from tests.support.s3_proxy import Request, S3Proxy, s3_proxy
from tests.support.stack import Stack

pytestmark = pytest.mark.usefixtures("small_batches")

LARGE_LINES = 4
LINE = 4 * 2**20 - 100  # bytes; spaces are part of the JSON


def make_job(stack: Stack, engine: Engine, worker_id: uuid.UUID, body: bytes, **request: object) -> Lease:
    """Plan a job of an input object and make its images. Returns its finalizing."""
    stack.submit({"input_uri": stack.upload(f"{uuid.uuid4()}.jsonl", body), **request})
    (planning,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), planning) is None
    for shard in claim(engine, worker_id):
        made = [Output(index, index, index, f"k{index}", "0" * 64, 1, "p") for index in range(shard.start, shard.stop)]
        with engine.begin() as connection:
            settle(connection, shard, made, is_last=True)
    (finalize,) = claim(engine, worker_id, "finalize")
    return finalize


def test_a_large_input_is_read_with_progress(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    """Each piece of it counts, however few images there are, so nobody takes the dispatcher for frozen."""
    line = b'{"class_label": 1, "id": "%d"' + b" " * LINE + b"}\n"
    finalize = make_job(stack, engine, worker_id, b"".join(line % number for number in range(LARGE_LINES)))
    ticks: list[None] = []
    assert finalizer.finalize(engine, stack.store(), finalize, tick=lambda: ticks.append(None)) == "succeeded"
    assert len(ticks) >= LARGE_LINES * LINE // CHUNK


@pytest.mark.parametrize("archive", [{}, {"output": {"archive": "tar"}}])
def test_an_input_that_may_not_be_read_now_is_not_taken_for_gone(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, archive: dict[str, object]
) -> None:
    """The reason of the job then says so, and a retry lists the ids once it may be read."""
    finalize = make_job(stack, engine, worker_id, b'{"class_label": 1, "id": "a"}\n', **archive)
    proxy = S3Proxy(refuse=lambda request: 403 if _reads(request, "/inputs/") else None)
    with s3_proxy(stack.settings("dispatcher"), proxy) as store, pytest.raises(ObjectStoreError) as refused:
        finalizer.finalize(engine, store, finalize)
    words = describe_failure(finalize, refused.value)
    assert re.fullmatch(
        r"finalizing failed: the store refuses to return s3://.*l \(Refused\); let the service .*", words
    )
    assert finalizer.finalize(engine, stack.store(), finalize) == "succeeded"
    (key,) = json.loads(stack.store().get(stack.job(finalize.job_id).manifest_key))["outputs"]
    assert [json.loads(line)["id"] for line in stack.store().get(key).splitlines()] == ["a"]


def _reads(request: Request, part: str) -> bool:
    return request.method == "GET" and part in request.path


class Interrupted(Exception):
    """Planning ends here, as if its process did."""


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"prefix": 1, "objects": [{"key": 1, "first": 1e400}]}', b"[" * 100_000]
)
def test_a_replaced_list_of_objects_costs_only_their_names(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, body: bytes
) -> None:
    """Planning that goes on reads it again, and who may write to the bucket has replaced it."""
    prefix = f"inputs/default/{uuid.uuid4()}/"
    stack.store().put(f"{prefix}a.jsonl", b'{"class_label": 1}\n' * 39 + b"?\n", content_type="")
    job_id = stack.submit({"input_uri": prefix})
    (planning,) = claim(engine, worker_id, "plan")

    def interrupt() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        planner.plan_job(engine, stack.store(), planning, tick=interrupt)
    assert stack.job(job_id).planned_to == 32
    stack.store().put(stack.job(job_id).plan["input"]["objects"], body, content_type="")
    assert planner.plan_job(engine, stack.store(), planning) is None
    assert stack.outputs(job_id)[-1].error.startswith("line 40: not JSON")
