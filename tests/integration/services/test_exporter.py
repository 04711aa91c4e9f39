"""The queue's gauges as Prometheus reads them, compared with the database."""

import json
import math
import time
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from services.database.connections import connect
from services.exporter import GAUGES, MAX_TENANTS, OTHER_TENANTS, QueueCollector
from services.job_queue.load import read_load
from services.local_stack import lifecycle, processes
from tests.support.chart import MATRIX, load_objects, of_kind, template
from tests.support.gauges import read_gauges
from tests.support.http import HealthClient, free_port, scrape_metrics
from tests.support.stack import Stack, fresh_stack

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 40, "steps": 10, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack of its own, so that no other test fills its queue."""
    with fresh_stack() as running:
        yield running


def test_an_empty_queue_is_zero_and_a_job_is_counted_until_it_ends(own: Stack) -> None:
    port = free_port()
    collector = QueueCollector(own.engine("observer"), 30)
    with own.process("exporter", DARKROOM_METRICS_PORT=str(port)):
        health = HealthClient(port)
        health.wait_until("readyz", lambda reasons: not reasons)
        seen = scrape_metrics(port)
        assert seen["darkroom_exporter_up"] == 1
        assert seen["darkroom_queue_evaluations,queue=default,state=ready,tenant="] == 0
        assert seen["darkroom_processes,kind=dispatcher"] == 0
        assert seen["process_start_time_seconds"] > 0
        assert not any(name.startswith("darkroom_step") for name in seen)  # only workers count these
    job = own.submit(REQUEST)
    later = own.submit(REQUEST, run_after="2100-01-01")
    seen = read_gauges(collector)
    assert seen["darkroom_open_jobs,queue=default,state=submitted,tenant=default"] == 2
    assert 0 < seen["darkroom_oldest_job_seconds,queue=default,state=submitted,tenant=default"] < 60
    with own.process("dispatcher"):
        own.wait(job, "planned")
        seen = read_gauges(collector)
        assert seen["darkroom_queue_evaluations,queue=default,state=ready,tenant=default"] == 400
        assert seen["darkroom_queue_images,queue=default,state=ready,tenant=default"] == 40
        assert seen["darkroom_processes,kind=dispatcher"] == 1
        with own.process("worker"):
            own.wait(job)
    seen = read_gauges(collector)
    assert "darkroom_queue_evaluations,queue=default,state=ready,tenant=default" not in seen
    assert seen["darkroom_open_jobs,queue=default,state=submitted,tenant=default"] == 1  # the one of 2100
    assert seen["darkroom_oldest_job_seconds,queue=default,state=submitted,tenant=default"] == 0
    assert own.job(later).state == "submitted"


def test_a_stalled_job_is_timed(own: Stack) -> None:
    collector = QueueCollector(own.engine("observer"), 30)
    job = own.submit({**REQUEST, "images_per_item": 64})
    with own.process("dispatcher"):
        own.wait(job, "planned")
    with own.engine("worker").begin() as connection:  # a worker claims and then does nothing
        worker = uuid.uuid4()
        connection.execute(
            text("INSERT INTO workers (id, kind, host, pid) VALUES (:id, 'worker', 'h', 1)"), {"id": worker}
        )
        connection.execute(
            text("""
                UPDATE work SET state = 'leased', owner = :id, lease_until = now() + interval '1 hour', token = 1
                WHERE job_id = :job AND kind = 'sample'
            """),
            {"id": worker, "job": job},
        )
    assert read_gauges(collector)["darkroom_stalled_seconds,queue=default"] == 0  # a fresh exporter knows no past
    time.sleep(0.3)
    assert 0.3 <= read_gauges(collector)["darkroom_stalled_seconds,queue=default"] < 30
    with own.engine("worker").begin() as connection:
        connection.execute(text("UPDATE jobs SET succeeded = succeeded + 1 WHERE id = :id"), {"id": job})
    assert read_gauges(collector)["darkroom_stalled_seconds,queue=default"] < 0.3
    with own.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM jobs"))


def test_tenants_beyond_the_busiest_share_a_label(own: Stack) -> None:
    count = MAX_TENANTS + 10
    with own.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
        connection.execute(
            text("""
                INSERT INTO tenants (name, write_prefixes)
                SELECT 'tenant-' || n, ARRAY['outputs/t'] FROM generate_series(1, :count) n
            """),
            {"count": count},
        )
        job = connection.scalar(
            text("INSERT INTO jobs (model, request) VALUES ('tiny', :request) RETURNING id"),
            {"request": json.dumps(REQUEST)},
        )
        connection.execute(
            text("""
                INSERT INTO work (job_id, kind, queue, tenant, start, stop, cost)
                SELECT :job, 'sample', 'default', 'tenant-' || n, 0, 1, n FROM generate_series(1, :count) n
            """),
            {"job": job, "count": count},
        )
    seen = read_gauges(QueueCollector(own.engine("observer"), 30))
    named = {name: value for name, value in seen.items() if name.startswith("darkroom_queue_evaluations,")}
    assert len([name for name in named if "tenant=tenant-" in name]) == MAX_TENANTS
    assert named[f"darkroom_queue_evaluations,queue=default,state=ready,tenant={OTHER_TENANTS}"] == sum(range(1, 11))
    assert sum(named.values()) == count * (count + 1) // 2
    with own.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM jobs"))


def test_the_observer_reads_counts_and_no_requests(own: Stack) -> None:
    engine = own.engine("observer")
    with engine.connect() as connection:
        read_load(connection, 30)
    for statement in ("SELECT * FROM jobs", "SELECT * FROM work", "SELECT * FROM outputs", "SELECT * FROM tenants",
                      "DELETE FROM workers", "UPDATE queues SET paused = true", "SELECT * FROM releases"):  # fmt: skip
        with engine.connect() as connection, pytest.raises(Exception, match="permission denied"):
            connection.execute(text(statement))


def test_without_a_port_it_names_the_variable(own: Stack) -> None:
    with own.process("exporter") as process:
        process.child.wait(30)
        assert process.child.returncode == 1
        assert "DARKROOM_METRICS_PORT: 0 is not allowed here" in process.log.read_text()


def test_the_autoscalers_query_counts_evaluations(own: Stack) -> None:
    """The chart's query for KEDA, with the login that KEDA uses."""
    (scaled,) = (one for one in of_kind("aws", "ScaledObject") if one["metadata"]["name"].endswith("l4"))
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    with own.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM jobs"))

    def scaler_value() -> float:
        with own.engine("observer").connect() as connection:
            return float(connection.scalar(text(query)))

    assert scaler_value() == 0
    job = own.submit(REQUEST)
    with own.process("dispatcher"):
        own.wait(job, "planned")
    assert scaler_value() == 400
    with own.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE queues SET paused = true"))
    assert scaler_value() == 0
    with own.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE queues SET paused = false"))
        connection.execute(text("DELETE FROM jobs"))


def test_the_pools_of_a_queue_share_its_work(own: Stack) -> None:
    """What the autoscalers of several pools count adds up to the work, whatever the weights."""
    pools = {"a": 1, "b": 2, "c": 4}
    chosen = ",".join(f"workerPools.{pool}.autoscaling.weight={weight}" for pool, weight in pools.items())
    alone = "workerPools.default.queues={slow},workerPools.a.queues={default,fast},queues={default,slow,fast}"
    done = template(MATRIX["least"], "--set", f"workerDefaults.autoscaling.enabled=true,{chosen},{alone}")
    scaled = [one for one in load_objects(done.stdout) if one["kind"] == "ScaledObject"]
    queries = {one["metadata"]["name"][-1]: one["spec"]["triggers"][0]["metadata"]["query"] for one in scaled}
    with own.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
        connection.execute(text("INSERT INTO queues (name) VALUES ('slow'), ('fast') ON CONFLICT DO NOTHING"))
    job = own.submit(REQUEST)
    with own.process("dispatcher"):
        own.wait(job, "planned")
    with own.engine("migrator").begin() as connection:
        moved = "UPDATE work SET queue = 'fast' WHERE id = (SELECT min(id) FROM work WHERE kind = 'sample')"
        connection.execute(text(moved))
        fast = connection.scalar(text("SELECT sum(cost) FROM work WHERE queue = 'fast'"))
    with own.engine("observer").connect() as connection:
        counted = {pool: float(connection.scalar(text(query))) for pool, query in queries.items()}
    with own.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
    shared = 400 - fast
    exact = {"a": shared / 7 + fast, "b": shared * 2 / 7, "c": shared * 4 / 7, "t": 0}
    assert counted == {pool: math.ceil(part) for pool, part in exact.items()}, "rounded up, so that no part is lost"
    assert 400 <= sum(counted.values()) < 400 + len(pools)


def test_a_frozen_postgres_does_not_delay_scrapes(own: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.exporter.TIMEOUT_S", 0.5)
    collector = QueueCollector(own.engine("observer"), 30)
    assert read_gauges(collector)["darkroom_exporter_up"] == 1
    server = processes.find(own.root, "postgres")
    assert server is not None
    family = [server, *server.children(recursive=True)]
    try:
        for process in family:
            process.suspend()
        for _ in range(2):
            began = time.monotonic()
            assert read_gauges(collector) == {"darkroom_exporter_up": 0}
            assert time.monotonic() - began < 5
        assert collector.error == "no answer within 0 s"
    finally:
        for process in reversed(family):
            process.resume()
    deadline = time.monotonic() + 20
    while read_gauges(collector)["darkroom_exporter_up"] == 0:
        assert time.monotonic() < deadline


def test_without_postgres_only_the_up_gauge_is_exported(own: Stack) -> None:
    """This is the last test of the file because it stops the database."""
    port = free_port()
    with own.process("exporter", DARKROOM_METRICS_PORT=str(port)):
        health = HealthClient(port)
        health.wait_until("readyz", lambda reasons: not reasons)
        lifecycle.stop(own.root)
        health.wait_until("readyz", lambda reasons: any("Postgres" in reason for reason in reasons))
        assert health.reasons("healthz") == []
        seen = scrape_metrics(port)
        assert seen["darkroom_exporter_up"] == 0
        assert not [name for name in seen if name.startswith("darkroom_queue")]


def test_every_gauge_is_described_and_documented() -> None:
    from pathlib import Path

    told = Path("docs/metrics.md").read_text()
    collector = QueueCollector(connect("postgresql+psycopg://nobody@127.0.0.1:1/none"), 30)
    assert {family.name for family in collector.describe()} == set(GAUGES)
    assert [name for name in GAUGES if f"| `{name}`" not in told] == []
