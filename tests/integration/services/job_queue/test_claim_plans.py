"""A claim reads a few rows of an index, however much work is ready."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.job_queue import claims, processes
from services.job_queue.states import ProcessKind
from tests.support.job_queue import REQUEST, empty_queue
from tests.support.stack import Stack


@pytest.fixture(scope="module")
def million(stack: Stack) -> Iterator[Engine]:
    """A million shards of ten releases, half of them done, and a few thousand jobs to plan."""
    engine = stack.engine("migrator")
    empty_queue(engine)
    job_id = stack.submit(REQUEST)
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO work (job_id, kind, queue, tenant, state, stop, pack_key, rank)
                SELECT :id, 'sample', 'default', 'default', CASE WHEN n % 2 = 0 THEN 'done' ELSE 'ready' END, 1,
                       'r' || n % 10, n FROM generate_series(1, 1000000) AS n
            """),
            {"id": job_id},
        )
        connection.execute(
            text("INSERT INTO work (job_id, kind, queue, tenant, rank) "
                 "SELECT :id, 'plan', 'default', 'default', n FROM generate_series(1, 5000) AS n"),
            {"id": job_id},
        )  # fmt: skip
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE work"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE work"))
    empty_queue(engine)


def plan_nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from plan_nodes(part)


@pytest.mark.parametrize(
    ("statement", "index", "rows"),
    [
        (claims.CLAIM_SAMPLING, "work_to_sample", 1),
        (claims.CLAIM_SAMPLING_OF_RELEASE, "work_to_sample_by_release", 1),
        (claims.PUSH_BACK, "work_to_sample", 0),
        (claims.PUSH_BACK_OF_RELEASE, "work_to_sample_by_release", 0),
        (claims.CLAIM_PLANNING, "work_to_dispatch", 1),
    ],
)
def test_a_claim_reads_only_what_it_claims(million: Engine, statement: Any, index: str, rows: int) -> None:
    """Among a million shards it reads its index, in the order of the ranks."""
    with million.begin() as connection:
        worker_id = processes.register(connection, ProcessKind.WORKER)
    values = {"queue": "default", "worker": worker_id, "count": 1, "release": "r7", "without": [], "images": 1,
              "lowest_rank": -math.inf, "clock": -math.inf, "each": 4, "is_idle": True, "waits": True}  # fmt: skip
    with million.connect() as connection:
        found = connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}"), values).scalar()
        connection.rollback()
    assert found is not None
    plan = found[0]["Plan"]
    assert plan["Actual Rows"] == rows
    nodes = list(plan_nodes(plan))
    assert any(node.get("Index Name") == index for node in nodes), json.dumps(found)
    assert not any(node["Node Type"] == "Seq Scan" and node["Relation Name"] == "work" for node in nodes)
    assert sum(node.get("Rows Removed by Filter", 0) for node in nodes) < 10
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 200
