"""A claim reads a few rows of an index, however much work is ready, and Postgres keeps its plans."""

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text

from services.database import connections
from services.job_queue import claims, jobs, processes
from services.job_queue.states import ProcessKind
from tests.support.job_queue import REQUEST, claim, empty_queue, submit_planned
from tests.support.stack import Stack

pytestmark = pytest.mark.long

PARAMETER = r"(?<!:):([a-z_]+)"
TYPES = {bool: "boolean", int: "integer", float: "float8", str: "unknown", list: "unknown", uuid.UUID: "uuid"}
CUSTOM_PLANS = 5  # after which Postgres may choose another


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


def explain(connection: Connection, statement: str, values: Mapping[str, Any]) -> Any:
    """Run a statement with these values. Returns how Postgres did that."""
    return connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"), values).scalar_one()


def explain_prepared(connection: Connection, statement: str, values: Mapping[str, Any]) -> Any:
    """Run a prepared statement once Postgres has chosen whether it plans it for the values of each run."""
    names = list(dict.fromkeys(re.findall(PARAMETER, statement)))
    numbered = re.sub(PARAMETER, lambda match: f"${names.index(match[1]) + 1}", statement)
    types = ", ".join(TYPES[type(values[name])] for name in names)
    marks, given = ", ".join(["%s"] * len(names)), [values[name] for name in names]
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with psycopg.ClientCursor(driver) as cursor:
        cursor.execute(f"PREPARE explained ({types}) AS {numbered}")
        for _ in range(CUSTOM_PLANS):
            cursor.execute(f"EXECUTE explained ({marks})", given)
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained ({marks})", given)
        found = cursor.fetchone()
        cursor.execute("DEALLOCATE explained")
    assert found is not None
    return found[0]


@pytest.mark.parametrize("explained", [explain, explain_prepared])
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
def test_a_claim_reads_only_what_it_claims(
    million: Engine, statement: Any, index: str, rows: int, explained: Callable[..., Any]
) -> None:
    """Among a million shards it reads its index, in the order of the ranks."""
    with million.begin() as connection:
        worker_id = processes.register(connection, ProcessKind.WORKER)
    values = {"queue": "default", "worker": worker_id, "count": 1, "release": "r7", "without": [], "images": 1,
              "without_tenants": [], "lowest_rank": -math.inf, "clock": -math.inf, "each": 4, "is_idle": True,
              "waits": True}  # fmt: skip
    with million.connect() as connection:
        found = explained(connection, statement.text, values)
        connection.rollback()
    plan = found[0]["Plan"]
    assert plan["Actual Rows"] == rows
    nodes = list(plan_nodes(plan))
    assert any(node.get("Index Name") == index for node in nodes), json.dumps(found)
    assert not any(node["Node Type"] == "Seq Scan" and node["Relation Name"] == "work" for node in nodes)
    assert sum(node.get("Rows Removed by Filter", 0) for node in nodes) < 10
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 200


def test_beginning_a_shard_is_planned_once(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    """Among a thousand jobs; to plan it takes Postgres longer than to do it."""
    empty_queue(engine)
    submit_planned(stack, engine, worker_id)
    (lease, *_) = claim(engine, worker_id)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO jobs (tenant, model, request, run_after) "
                 "SELECT 'default', 'tiny', '{}', '2100-01-01' FROM generate_series(1, 1000)")
        )  # fmt: skip
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE, FULL) jobs"))  # as in a database of its own
    url = engine.url.render_as_string(hide_password=False)
    prepared = connections.autocommit(connections.prepare_statements(connections.connect(url)))
    with prepared.connect() as connection:
        for _ in range(connections.PREPARE_AFTER + CUSTOM_PLANS + 2):
            jobs.begin_shards(connection, [lease])
        query = "SELECT generic_plans FROM pg_prepared_statements WHERE statement LIKE '%begun%'"
        assert connection.scalar(text(query))
    prepared.dispose()
    empty_queue(engine)
