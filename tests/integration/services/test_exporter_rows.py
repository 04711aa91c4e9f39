"""No row and no reading silences the exporter's other gauges, and many open jobs do not delay them."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from services.exporter import GAUGES, QueueCollector
from services.job_queue.load import STATEMENT_TIMEOUT_S, read_load
from tests.support.gauges import read_gauges
from tests.support.job_queue import empty_queue
from tests.support.stack import Stack
from tests.support.thoroughness import THOROUGH

OPEN_JOBS, SHARDS = (100_000, 1_000_000) if THOROUGH else (20_000, 200_000)


@pytest.fixture
def owner(stack: Stack) -> Iterator[Engine]:
    engine = stack.engine("migrator")
    empty_queue(engine)
    yield engine
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE jobs, work, outputs CASCADE"))


def test_a_row_out_of_range_silences_nothing(stack: Stack, owner: Engine) -> None:
    """Infinite times, costs and counts whose sums no integer holds."""
    with owner.begin() as connection:
        connection.execute(text("ALTER TABLE jobs DISABLE TRIGGER check_columns"))
    try:
        stack.submit({"items": []}, run_after="infinity")
        stack.submit({"items": []}, run_after="-infinity")
        job = stack.submit({"items": []})
        with owner.begin() as connection:
            connection.execute(text("UPDATE jobs SET created_at = '-infinity' WHERE id <> :id"), {"id": job})
            connection.execute(
                text("UPDATE jobs SET succeeded = 2147483647, failed = 2147483647 WHERE id = :id"), {"id": job}
            )
            connection.execute(
                text("""
                    INSERT INTO work (job_id, kind, queue, tenant, start, stop, cost, state, owner)
                    SELECT :id, 'sample', 'default', 'default', -2147483648, 2147483647, 9223372036854775807, state,
                        CASE WHEN state = 'leased' THEN gen_random_uuid() END
                    FROM unnest(ARRAY['ready', 'ready', 'leased']) AS state
                """),
                {"id": job},
            )
        seen = read_gauges(QueueCollector(stack.engine("observer"), 30))
        assert seen["darkroom_exporter_up"] == 1
        assert {value for name, value in seen.items() if name.startswith("darkroom_exporter_unreadable")} == {0}
        assert seen["darkroom_open_jobs,queue=default,state=submitted,tenant=default"] == 3
        assert 0 <= seen["darkroom_oldest_job_seconds,queue=default,state=submitted,tenant=default"] < 600
        assert seen["darkroom_queue_evaluations,queue=default,state=ready,tenant=default"] == 2.0**63
        assert {name.split(",")[0] for name in seen} == set(GAUGES)
    finally:
        empty_queue(owner)
        with owner.begin() as connection:
            connection.execute(text("ALTER TABLE jobs ENABLE TRIGGER check_columns"))


def test_a_reading_that_fails_silences_no_other(stack: Stack, owner: Engine) -> None:
    stack.submit({"items": []})
    collector = QueueCollector(stack.engine("observer"), 30)
    with owner.begin() as connection:
        connection.execute(text("REVOKE SELECT ON queue_load FROM darkroom_observer"))
    try:
        seen = read_gauges(collector)
    finally:
        with owner.begin() as connection:
            connection.execute(text("GRANT SELECT ON queue_load TO darkroom_observer"))
    assert seen["darkroom_exporter_up"] == 1
    assert seen["darkroom_exporter_unreadable,reading=work"] == 1
    assert not any(name.startswith("darkroom_queue_evaluations") for name in seen)
    assert seen["darkroom_open_jobs,queue=default,state=submitted,tenant=default"] == 1
    assert read_gauges(collector)["darkroom_exporter_unreadable,reading=work"] == 0


def test_many_open_jobs_are_read_within_the_limit(stack: Stack, owner: Engine) -> None:
    with owner.begin() as connection:
        connection.execute(
            text("INSERT INTO jobs (model, request, run_after) SELECT 'tiny', '{}', '2100-01-01' "
                 "FROM generate_series(1, :count)"),
            {"count": OPEN_JOBS},
        )  # fmt: skip
        connection.execute(
            text("""
                INSERT INTO work (job_id, kind, queue, tenant, stop, cost)
                SELECT id, 'sample', 'default', 'default', 16, 64 FROM jobs, generate_series(1, :each)
                WHERE finished_at IS NULL
            """),
            {"each": SHARDS // OPEN_JOBS},
        )
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    began = time.monotonic()
    with stack.engine("observer").begin() as connection:
        load = read_load(connection, 30)
    print("read in", round(time.monotonic() - began, 2), "s")
    assert load.errors == {}
    assert load.work is not None
    assert load.work["default", "default", "ready"] == (64 * SHARDS, 16 * SHARDS)
    assert time.monotonic() - began < 2 * STATEMENT_TIMEOUT_S
