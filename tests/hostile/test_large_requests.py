"""Requests as large as permitted, of many small values, from several tenants at once: memory stays bounded."""

import pytest

from tests.support.processes import peak_memory_mib
from tests.support.stack import Stack
from tests.support.tenants import QUICK, end_open_jobs, make_tenant

ITEM = {"class_label": 1, "metadata": {"a": [{"a": 0}] * 36}}
LARGE = {"steps": 1, "items": [ITEM] * 10_000}  # 4 MiB, of which parsing makes more than 100
PERMITTED_MIB = 400


@pytest.mark.long
def test_large_requests_are_planned_within_the_permitted_memory(stack: Stack) -> None:
    tenants = [make_tenant(stack, f"large{number}") for number in range(2)]
    small = make_tenant(stack, "small")
    own = {"before_imports": "pass"}  # The pages of a process that others are forked from would count, too.
    with stack.process("dispatcher", **own, **QUICK) as process:
        process.wait_for("serves")
        jobs = [(tenant, tenant.submit(LARGE)) for tenant in tenants * 2]
        small.wait(small.submit(), "planned")
        for tenant, job_id in jobs:
            row = tenant.wait(job_id, "planned", "rejected")
            assert (row.state, row.total) == ("planned", 10_000), row.reason
        assert process.child.poll() is None, process.log.read_text()[-4000:]
        assert peak_memory_mib(process.child.pid) < PERMITTED_MIB
    end_open_jobs(stack)
