"""Objects of one tenant that trickle, fail or may not be read: its jobs wait or fail, and the worker serves others."""

from typing import Any

import numpy as np
import pytest

from tests.support.images import image_file
from tests.support.s3_proxy import Request, S3Proxy, s3_proxy
from tests.support.stack import Stack
from tests.support.tenants import QUICK, Tenant, describe_work, end_open_jobs

pytestmark = pytest.mark.long

STATUS = {"denied.png": 403, "removed.png": 404, "broken.png": 500}


def begin_with(name: str) -> dict[str, Any]:
    item = {"class_label": 1, "image": f"s3://darkroom/inputs/attacker/{name}", "strength": 0.5}
    return {"items": [item], "images_per_item": 16, "steps": 2}


def test_objects_that_trickle_or_fail_keep_no_other_tenant_waiting(
    stack: Stack, attacker: Tenant, neighbour: Tenant
) -> None:
    """An object that trickles takes minutes. The worker has two shards of such jobs, and more of them wait."""
    is_slow = True

    def refuse(request: Request) -> int | None:
        name = request.path.partition("?")[0].rpartition("/")[2]
        return STATUS.get(name) if is_slow and request.method == "GET" else None

    proxy = S3Proxy(refuse=refuse, trickles=lambda request: is_slow and "slow.png" in request.path)
    body = image_file(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))  # 1 KB, 10 bytes a second
    for name in ("slow.png", *STATUS):
        stack.store().put(f"inputs/attacker/{name}", body, content_type="image/png")
    with s3_proxy(stack.settings("worker"), proxy) as store, stack.process("dispatcher", **QUICK):
        endpoint = store.client.meta.endpoint_url
        with stack.process("worker", DARKROOM_S3_ENDPOINT_URL=endpoint, **QUICK) as worker:
            worker.wait_for("serves queues")
            neighbour.assert_served()
            waiting = [attacker.submit(begin_with(name)) for name in ["slow.png", "broken.png"] * 3]
            refused = [attacker.submit(begin_with(name)) for name in ("denied.png", "removed.png")]
            for _ in range(5):
                neighbour.assert_served(timeout=60)
            for job in refused:
                row = attacker.wait(job, timeout=60)
                assert (row.state, row.failed) == ("failed", 16), row
                assert "does not exist, or the service may not read it (16 of 16 images)" in row.reason
            assert {attacker.job(job).state for job in waiting} <= {"planned", "running"}, describe_work(stack)
            is_slow = False
            for job in waiting:
                assert attacker.wait(job).state == "succeeded"
    end_open_jobs(stack)
