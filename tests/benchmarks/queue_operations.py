"""Queue operations compared with procrastinate and pgqueuer: `python -m tests.benchmarks.queue_operations [--count N]`.

All run in turn on one Postgres server, each in its own database:
submit: N jobs one by one, each in its own transaction.
submit many: N jobs in one call.
work: N pieces of work that do nothing are claimed and completed with ten under way, each queue in its own way:
Darkroom and pgqueuer claim and complete ten at a time, procrastinate has ten tasks. A piece of Darkroom's work is the
sampling of an image of one of ten jobs, with its plan, output row and counters; the others write only their own state.
settle: N stored images of one job are recorded: one image a statement, and by the worker's settler.
Reports operations per second, medians. Needs the extra `benchmarks`.
"""

import argparse
import asyncio
import json
import logging
import statistics
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pgqueuer
import procrastinate
import psycopg
from pgqueuer.db import PsycopgDriver
from pgqueuer.types import QueueExecutionMode
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, Engine, text

from services.dispatcher import planner
from services.job_queue import claims, jobs, outputs, processes
from services.job_queue.leases import Lease
from services.job_queue.outputs import Outcome, Output, Settling
from services.job_queue.states import ProcessKind
from services.worker.held_shards import HeldShard, HeldShards
from services.worker.settler import Settler
from tests.support.stack import Stack, fresh_stack

UNDER_WAY = 10
REQUEST = json.dumps({"items": [{"class_label": 1}], "steps": 1})
OPERATIONS = ("submit", "submit many", "work")
SETTLING = ("one image a statement", "by the settler")

Seconds = dict[str, float]


def time_action(action: Callable[[], Any]) -> float:
    """Return the seconds that the action takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


async def time_coroutine(action: Coroutine[Any, Any, Any]) -> float:
    """Return the seconds that the action takes."""
    begun = time.perf_counter()
    await action
    return time.perf_counter() - begun


def measure_darkroom(stack: Stack, count: int) -> Seconds:
    """Measure Darkroom: the tenant's login submits and the worker's login works."""
    url = stack.settings("submitter").database_url.get_secret_value().replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as client:
        insert = "INSERT INTO jobs (model, request) VALUES ('tiny', %s)"
        one_by_one = time_action(lambda: [client.execute(insert, (REQUEST,)) for _ in range(count)])
        many = json.dumps([{"model": "tiny", "request": json.loads(REQUEST)}] * count)
        together = time_action(lambda: client.execute("SELECT submit_jobs(%s)", (many,)))
    plan_jobs(stack, count)
    return {"submit": one_by_one, "submit many": together, "work": time_action(lambda: work(stack))}


def plan_jobs(stack: Stack, count: int) -> None:
    """Replace all jobs by ten planned jobs with `count` shards of one image in total."""
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("TRUNCATE work, outputs, jobs CASCADE"))
    ids = [stack.submit(json.loads(REQUEST)) for _ in range(10)]
    engine = stack.engine("dispatcher")
    with engine.begin() as connection:
        process = processes.register(connection, ProcessKind.DISPATCHER)
    for _ in ids:
        with engine.begin() as connection:
            (lease,) = claims.claim_planning(connection, process, count=1)
        assert planner.plan_job(engine, stack.store(), lease) is None
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("DELETE FROM work"))
        for job_id in ids:
            add_shards(connection, job_id, count // 10, images=1)
    with stack.engine("migrator").connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE work"))


def add_shards(connection: Connection, job_id: Any, count: int, *, images: int) -> None:
    """Add waiting shards of so many images each to a job."""
    connection.execute(
        text("""
            INSERT INTO work (job_id, kind, pack_key, tenant, queue, rank, start, stop, cost)
            SELECT :job, 'sample', repeat('0', 64), 'default', 'default', n, n * :images, (n + 1) * :images, :images
            FROM generate_series(0, :count - 1) AS n
        """),
        {"job": job_id, "count": count, "images": images},
    )


def connect_worker(stack: Stack) -> Engine:
    """Connect as a worker does: each statement commits, and those that run often are prepared."""
    from services.database import connections

    url = stack.settings("worker").database_url.get_secret_value()
    return connections.autocommit(connections.prepare_statements(connections.connect(url)))


def work(stack: Stack) -> None:
    """Claim ten shards, record an image of each and finish them, until nothing is ready: as a worker does.

    Each claim and each end is a statement and a transaction of its own.
    """
    engine = connect_worker(stack)
    with engine.connect() as connection:
        process = processes.register(connection, ProcessKind.WORKER)
        while found := claims.claim_sampling(connection, process, queues=["default"], count=UNDER_WAY):
            jobs.begin_shards(connection, found)
            images = [Output(lease.start, lease.start, 1, "k", "0" * 64, 1, "p") for lease in found]
            ended = [Settling(lease, [image], is_last=True) for lease, image in zip(found, images, strict=True)]
            assert set(outputs.settle_jobs(connection, ended).values()) == {Outcome.SETTLED}
    engine.dispose()


def measure_settling(stack: Stack, count: int) -> Seconds:
    """Measure how long it takes to record `count` images of one job, in shards of 16."""
    engine = connect_worker(stack)
    with engine.connect() as connection:
        process = processes.register(connection, ProcessKind.WORKER)

    def claim_all() -> list[Lease]:
        plan_jobs(stack, 0)
        with stack.engine("migrator").begin() as connection:
            job_id = connection.scalar(text("SELECT min(CAST(id AS text))::uuid FROM jobs"))
            add_shards(connection, job_id, count // 16, images=16)
        with engine.connect() as connection:
            return [*claims.claim_sampling(connection, process, queues=["default"], count=count)]

    def one_by_one(leases: list[Lease]) -> None:
        for lease in leases:
            for index in range(lease.start, lease.stop):
                with engine.connect() as connection:
                    outputs.settle_images(connection, [Settling(lease, [make_output(index)])])

    def together(leases: list[Lease]) -> None:
        shards = HeldShards(engine, on_removed=lambda: None)
        settler = Settler(shards)
        settler.start()
        for shard in map(HeldShard, leases):
            shard.unsettled = set(range(shard.lease.start, shard.lease.stop))
            shards.add(shard)
            for index in range(shard.lease.start, shard.lease.stop):
                settler.add(shard, make_output(index))
        settler.stop()

    found = {}
    for name, action in zip(SETTLING, (one_by_one, together), strict=True):
        leases = claim_all()
        found[name] = time_action(partial(action, leases))
    engine.dispose()
    return found


def make_output(index: int) -> Output:
    """Return a stored image."""
    return Output(index, index, 1, f"outputs/default/job/images/{index:08d}.png", "0" * 64, 1000, "cpu")


def measure_procrastinate(url: str, count: int) -> Seconds:
    """Measure procrastinate: a connection pool, `defer`, `batch_defer`, and a worker with a concurrency of ten."""

    async def main() -> Seconds:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

        @app.task(name="nothing")
        async def nothing(request: str) -> None:
            pass

        async def submit() -> None:
            for _ in range(count):
                await nothing.defer_async(request=REQUEST)

        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            found = {"submit": await time_coroutine(submit())}
            many = nothing.batch_defer_async(*({"request": REQUEST} for _ in range(count)))
            found["submit many"] = await time_coroutine(many)
            working = app.run_worker_async(wait=False, concurrency=UNDER_WAY, install_signal_handlers=False)
            found["work"] = await time_coroutine(working) / 2  # there are 2 N
        return found

    return asyncio.run(main())


def measure_pgqueuer(url: str, count: int) -> Seconds:
    """Measure pgqueuer: `enqueue` of one and of many, and a manager that drains the queue in batches of ten."""

    async def main() -> Seconds:
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        driver = PsycopgDriver(connection)
        queue = pgqueuer.PgQueuer(driver)
        queries = pgqueuer.Queries(driver)
        await queries.install()

        @queue.entrypoint("nothing")
        async def nothing(job: Any) -> None:
            pass

        async def submit() -> None:
            for _ in range(count):
                await queries.enqueue("nothing", REQUEST.encode())

        found = {"submit": await time_coroutine(submit())}
        many = queries.enqueue(["nothing"] * count, [REQUEST.encode()] * count, [0] * count)
        found["submit many"] = await time_coroutine(many)
        draining = queue.run(mode=QueueExecutionMode.drain, batch_size=UNDER_WAY)
        found["work"] = await time_coroutine(draining) / 2
        await connection.close()
        return found

    return asyncio.run(main())


def create_database(stack: Stack) -> str:
    """Create an empty database on the same server. Returns its URL."""
    engine, name = stack.engine("migrator"), f"peer_{uuid.uuid4().hex[:8]}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return engine.url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    found: dict[str, list[Seconds]] = {"Darkroom": [], "procrastinate": [], "pgqueuer": []}
    with fresh_stack() as stack, suppress(KeyboardInterrupt):
        for _ in range(options.repeats):
            found["Darkroom"].append(measure_darkroom(stack, options.count))
            found["procrastinate"].append(measure_procrastinate(create_database(stack), options.count))
            found["pgqueuer"].append(measure_pgqueuer(create_database(stack), options.count))
        settling = [measure_settling(stack, options.count) for _ in range(options.repeats)]
    table = Table("operations a second", *OPERATIONS, box=None)
    for name, rounds in found.items():
        speeds = [options.count / statistics.median(seconds[which] for seconds in rounds) for which in OPERATIONS]
        table.add_row(name, *(f"{speed:,.0f}" for speed in speeds))
    Console().print(table)
    for which in SETTLING:
        speed = options.count / statistics.median(seconds[which] for seconds in settling)
        Console().print(f"images settled a second, of one job, {which}: {speed:,.0f}")


if __name__ == "__main__":
    main()
