"""Rows that should not exist, in a database whose constraints are gone: each is set aside, and other jobs are done."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.http import free_port, scrape_metrics
from tests.support.job_queue import fetch_value
from tests.support.stack import Process, Stack
from tests.support.tenants import QUICK, Tenant, administrator, end_open_jobs

CONSTRAINTS = {"work": ("work_kind_check", "work_check", "work_check1", "work_check2")}
ODD_TIMES = ["-infinity", "infinity", "20000-01-01", "4713-01-01 BC"]


@pytest.fixture(scope="module")
def unchecked(stack: Stack) -> Iterator[None]:
    """Drop the constraints that would refuse the rows of these tests."""
    with administrator(stack) as connection:
        query = "SELECT conname, pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conrelid = %s::regclass"
        dropped = []
        for table, names in CONSTRAINTS.items():
            for row in connection.execute(query, (table,)).fetchall():
                if row.conname in names:
                    dropped.append((table, row.conname, row.text))
                    connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {row.conname}")
        connection.execute("ALTER TABLE jobs DISABLE TRIGGER check_columns")
    yield
    end_open_jobs(stack)
    with administrator(stack) as connection:
        connection.execute("DELETE FROM outputs")
        connection.execute("DELETE FROM jobs")  # the odd ones that have ended
        for table, name, definition in dropped:
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        connection.execute("ALTER TABLE jobs ENABLE TRIGGER check_columns")


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def processes(stack: Stack, unchecked: None, metrics_port: int) -> Iterator[tuple[Process, Process, Process]]:
    """Two dispatchers, of which one shows its metrics, and a worker. They must survive all tests of this file."""
    with (
        stack.process("dispatcher", **QUICK, DARKROOM_METRICS_PORT=str(metrics_port)) as first,
        stack.process("dispatcher", **QUICK) as second,
        stack.process("worker", **QUICK) as worker,
    ):
        for process in (first, second):
            process.wait_for("serves")
        worker.wait_for("serves queues")
        yield first, second, worker
        for process in (first, second, worker):
            assert process.child.poll() is None, process.log.read_text()[-4000:]


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("time", ODD_TIMES)
def test_a_job_with_an_odd_time_is_cancelled_or_fails(attacker: Tenant, neighbour: Tenant, time: str) -> None:
    past = attacker.submit(deadline=time)
    later = attacker.submit(run_after="2100-01-01", deadline=time)
    never = attacker.submit(run_after=time)
    with attacker.connect() as connection:
        connection.execute("SELECT cancel_job(%s)", (later,))
    neighbour.assert_served(timeout=20)
    row = attacker.wait(past, timeout=60)
    assert row.state in ("failed", "partial", "succeeded"), (
        row
    )  # It may be done before a dispatcher looks at deadlines.
    if row.state == "failed":
        assert time.startswith(("-", "4713"))
        assert row.reason.startswith("its deadline, ")
    assert attacker.wait(later, timeout=60).state in ("cancelled", "failed")
    with attacker.connect() as connection:
        connection.execute("SELECT cancel_job(%s)", (never,))
    assert attacker.wait(never, timeout=60).state in ("cancelled", "succeeded")


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("plan", ["null", "[]", "{}", '{"images_per_item": "many"}', '{"images_per_item": 0}'])
def test_a_job_whose_plan_is_none_ends(stack: Stack, attacker: Tenant, neighbour: Tenant, plan: str) -> None:
    """One is past its deadline, one is to be finalized, and one is planned again."""
    past, done, again = (attacker.submit(run_after="2100-01-01") for _ in range(3))
    with administrator(stack) as connection:
        connection.execute("DELETE FROM work WHERE job_id IN (%s, %s)", (past, done))
        release = fetch_value(connection, "SELECT id FROM releases WHERE name = 'tiny' ORDER BY id LIMIT 1")
        for job, state in ((past, "planned"), (done, "finalizing"), (again, "submitted")):
            connection.execute(
                "UPDATE jobs SET state = %s, plan = %s, total = 32, release_id = %s, revision = 2, run_after = NULL "
                "WHERE id = %s",
                (state, plan, release, job),
            )
        connection.execute("UPDATE jobs SET deadline = '2020-01-01' WHERE id = %s", (past,))
        connection.execute(
            """
            INSERT INTO work (job_id, kind, stop, queue, tenant, state, run_after) VALUES
                (%s, 'sample', 32, 'default', 'attacker', 'delayed', '2100-01-01'),
                (%s, 'finalize', 0, 'default', 'attacker', 'ready', NULL)
            """,
            (past, done),
        )
        connection.execute("UPDATE work SET run_after = now() WHERE job_id = %s", (again,))
    neighbour.assert_served(timeout=20)
    for job in (past, done, again):
        row = attacker.wait(job, timeout=60)
        assert row.state in ("failed", "partial", "rejected", "succeeded"), (job, row)
        assert row.reason or row.state == "succeeded"
    if "many" in plan:
        row = attacker.job(past)
        assert row.state == "failed"
        assert row.reason.startswith("set aside by the service: "), row.reason


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "'odd'"},
        {"cost": "9223372036854775807"},
        {"attempts": "2147483647"},
        {"kind": "'odd'", "suspect": "true"},
        {"run_after": "'-infinity'", "state": "'delayed'"},
    ],
)
def test_odd_planning_is_set_aside(
    stack: Stack,
    attacker: Tenant,
    neighbour: Tenant,
    processes: tuple[Process, Process, Process],
    metrics_port: int,
    values: dict[str, str],
) -> None:
    job_id = attacker.submit({"items": []}, run_after="2100-01-01")
    with administrator(stack) as connection:
        changes = ", ".join(
            f"{name} = {value}" for name, value in ({"state": "'ready'", "run_after": "NULL"} | values).items()
        )
        connection.execute(f"UPDATE work SET {changes} WHERE job_id = %s", (job_id,))
    neighbour.assert_served(timeout=20)
    row = attacker.wait(job_id, timeout=60)
    assert row.state in ("failed", "rejected"), row
    assert row.reason


def test_a_lease_of_nobody_is_taken_back(
    stack: Stack, attacker: Tenant, neighbour: Tenant, processes: tuple[Process, Process, Process]
) -> None:
    """Its owner has no row, or one whose heartbeat is never or always; the lease has no end."""
    jobs = [attacker.submit(run_after="2100-01-01") for _ in range(4)]
    with administrator(stack) as connection:
        for job, heartbeat in zip(jobs, ("infinity", "-infinity", "9999-01-01", None), strict=True):
            owner = uuid.uuid4()
            if heartbeat:
                connection.execute(
                    "INSERT INTO workers (id, kind, host, pid, heartbeat_at) VALUES (%s, 'worker', '', -1, %s)",
                    (owner, heartbeat),
                )
            connection.execute(
                "UPDATE work SET state = 'leased', owner = %s, lease_until = 'infinity', token = -1, run_after = NULL "
                "WHERE job_id = %s",
                (owner, job),
            )
    neighbour.assert_served(timeout=20)
    for job in jobs:
        assert attacker.wait(job, timeout=60).state == "succeeded"


@pytest.mark.usefixtures("processes")
def test_a_broken_manifest_fails_its_jobs_alone(stack: Stack, attacker: Tenant, neighbour: Tenant) -> None:
    with administrator(stack) as connection:
        for version, manifest in enumerate(("null", "[]", "{}", '{"kind": 1e300}'), start=1):
            connection.execute(
                "INSERT INTO releases (name, version, kind, digest, manifest) "
                "VALUES ('broken', %s, 'diffusion', %s, %s) ON CONFLICT DO NOTHING",
                (version, f"{version}" * 64, manifest),
            )
    jobs = [attacker.submit(model=f"broken@{version}") for version in range(1, 5)]
    neighbour.assert_served(timeout=20)
    for job in jobs:
        assert attacker.wait(job, timeout=60).state in ("failed", "rejected")
    with administrator(stack) as connection:
        connection.execute("DELETE FROM jobs WHERE model LIKE 'broken@%%'")
        connection.execute("DELETE FROM releases WHERE name = 'broken'")


def test_what_was_set_aside_is_counted(processes: tuple[Process, Process, Process], metrics_port: int) -> None:
    """The two dispatchers share the work, so the logs say how often."""
    told = sum(process.log.read_text().count(": set aside by the service: ") for process in processes[:2])
    seen = scrape_metrics(metrics_port)
    counted = sum(value for name, value in seen.items() if name.startswith("darkroom_set_aside_total,"))
    assert told >= 1
    assert counted == processes[0].log.read_text().count(": set aside by the service: ")
