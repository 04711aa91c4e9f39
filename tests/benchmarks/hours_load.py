"""An hour of a million jobs a day, as fast as it goes: `python -m tests.benchmarks.hours_load [--jobs N] [--kept N]`.

One process does what clients, a dispatcher, a worker and retention do in the database, each with its own login: it
submits jobs of four images in tens, plans, claims, begins and settles them, ends them, and deletes those that are no
longer kept. S3 and the engine take no part. Once as many jobs have ended as are kept, latency and size should stay as
they are. With --history, so many jobs of earlier days are there, which is what autovacuum's thresholds are shares of;
--vacuum default takes back the settings of the schema, to compare. Reports for each tenth of the jobs the median and
the 95th percentile of a step's milliseconds, the jobs a second, the size of the tables with their indexes, and their
dead rows.
"""

import argparse
import json
import statistics
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Engine, text

from services.database.connections import autocommit
from services.dispatcher import planner
from services.job_queue import claims, expiry, jobs, outputs, processes
from services.job_queue.outputs import Output, Settling
from services.job_queue.states import ProcessKind
from tests.support.stack import Stack, fresh_stack

TOGETHER = 10  # jobs that are submitted, claimed and settled at once
IMAGES = 4
TABLES = ("jobs", "work", "outputs_all")
STEPS = ("submit", "plan", "claim", "settle", "end", "delete")
JOB = {"model": "tiny", "request": {"items": [{"class_label": 1}], "images_per_item": IMAGES, "steps": 1}}


# Copies of one ended job, with its work and its images.
HISTORY = """
    SET LOCAL session_replication_role = replica;
    CREATE TEMP TABLE copies ON COMMIT DROP AS SELECT uuidv7() AS id FROM generate_series(1, {count});
    INSERT INTO jobs SELECT (jsonb_populate_record(jobs, jsonb_build_object('id', copies.id))).*
        FROM jobs, copies WHERE jobs.id = '{job}';
    INSERT INTO work OVERRIDING SYSTEM VALUE
        SELECT (jsonb_populate_record(work, jsonb_build_object('id', nextval(pg_get_serial_sequence('work', 'id')),
            'job_id', copies.id))).* FROM work, copies WHERE job_id = '{job}';
    INSERT INTO outputs SELECT (jsonb_populate_record(outputs, jsonb_build_object('job_id', copies.id))).*
        FROM outputs, copies WHERE job_id = '{job}';
"""
DEFAULTS = "ALTER TABLE {table} RESET ({names})"


class Load:
    """The load, and how long its steps took in milliseconds."""

    def __init__(self, stack: Stack, kept: int) -> None:
        self.kept = kept
        self.owner, self.store = stack.engine("migrator"), stack.store()
        self.client, self.dispatcher = autocommit(stack.engine("submitter")), stack.engine("dispatcher")
        self.worker, self.pruner = autocommit(stack.engine("worker")), stack.engine("pruner")
        with self.owner.begin() as connection:
            connection.execute(text("UPDATE tenants SET retention_days = 1"))
        self.process = self.register(self.dispatcher, ProcessKind.DISPATCHER)
        self.worker_id = self.register(self.worker, ProcessKind.WORKER)
        self.ended: deque[uuid.UUID] = deque()
        self.took: defaultdict[str, list[float]] = defaultdict(list)

    def add_history(self, count: int) -> None:
        """Add copies of one ended job, which are never deleted."""
        self.round()
        with self.owner.begin() as connection:
            connection.exec_driver_sql(HISTORY.format(count=count, job=self.ended[0]))
        with self.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in TABLES:
                connection.execute(text(f"VACUUM (ANALYZE) {table}"))
        self.took.clear()

    def reset_vacuum(self) -> None:
        """Take back the settings of autovacuum that the schema has."""
        query = text("SELECT string_agg(split_part(option, '=', 1), ', ') FROM pg_class, unnest(reloptions) AS option "
                     "WHERE relname = :table AND option LIKE 'autovacuum%'")  # fmt: skip
        with self.owner.begin() as connection:
            for table in TABLES:
                if names := connection.scalar(query, {"table": table}):
                    connection.execute(text(DEFAULTS.format(table=table, names=names)))

    @staticmethod
    def register(engine: Engine, kind: ProcessKind) -> uuid.UUID:
        with engine.begin() as connection:
            return processes.register(connection, kind)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.took[step].append(1000 * (time.perf_counter() - began))

    def round(self) -> None:
        """Do everything for TOGETHER jobs."""
        with self.timed("submit"), self.client.connect() as connection:
            connection.execute(text("SELECT submit_jobs(CAST(:jobs AS jsonb))"), {"jobs": json.dumps([JOB] * TOGETHER)})
        self.plan()
        self.sample()
        self.end()
        while len(self.ended) > self.kept:
            self.delete(self.ended.popleft())

    def plan(self) -> None:
        with self.dispatcher.begin() as connection:
            leases = claims.claim_planning(connection, self.process, count=TOGETHER, each=TOGETHER)
        for lease in leases:
            with self.timed("plan"):
                assert planner.plan_job(self.dispatcher, self.store, lease) is None

    def sample(self) -> None:
        with self.worker.connect() as connection:
            with self.timed("claim"):
                leases = claims.claim_sampling(connection, self.worker_id, queues=["default"], count=TOGETHER)
                jobs.begin_shards(connection, leases)
            settling = [
                Settling(lease, [make_output(lease.job_id, i) for i in range(lease.start, lease.stop)], is_last=True)
                for lease in leases
            ]
            with self.timed("settle"):
                outputs.settle_jobs(connection, settling)

    def end(self) -> None:
        with self.dispatcher.begin() as connection:
            leases = claims.claim_planning(connection, self.process, count=TOGETHER, each=TOGETHER)
        for lease in leases:
            with self.timed("end"), self.dispatcher.begin() as connection:
                jobs.end_job(connection, lease, f"outputs/default/{lease.job_id}/manifest.json")
            self.ended.append(lease.job_id)

    def delete(self, job_id: uuid.UUID) -> None:
        with self.owner.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET finished_at = finished_at - interval '100 days' WHERE id = :id"), {"id": job_id}
            )
        with self.timed("delete"):
            for act in (
                expiry.mark_expired,
                lambda connection, job_id: expiry.delete_outputs(connection, job_id, 0, IMAGES),
                expiry.delete_marked,
            ):
                self.in_transaction(act, job_id)

    def in_transaction(self, act: Callable[..., object], job_id: uuid.UUID) -> None:
        with self.pruner.begin() as connection:
            act(connection, job_id)


def make_output(job_id: uuid.UUID, index: int) -> Output:
    """Return a stored image."""
    key = f"outputs/default/{job_id}/images/{index:08d}.png"
    return Output(index, 0, index, key, "0" * 64, 100_000, "cuda/NVIDIA-H100-80GB-HBM3/torch-2.9.0/bfloat16#01234567")


def sizes(engine: Engine) -> dict[str, tuple[float, int]]:
    """Return each table's MiB with its indexes, and its dead rows."""
    query = text("SELECT pg_total_relation_size(relid) / 1048576.0, n_dead_tup FROM pg_stat_user_tables "
                 "WHERE relname = :name")  # fmt: skip
    with engine.connect() as connection:
        return {name: tuple(connection.execute(query, {"name": name}).one()) for name in TABLES}


def percentiles(values: Sequence[float]) -> str:
    """Return the median and the 95th percentile."""
    if not values:
        return "-"
    return f"{statistics.median(values):.1f} / {sorted(values)[int(0.95 * len(values))]:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a line for each tenth of the jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=42_000)
    parser.add_argument("--kept", type=int, default=8_000, help="ended jobs that are kept")
    parser.add_argument("--history", type=int, default=0, help="jobs that have ended before")
    parser.add_argument("--vacuum", choices=("schema", "default"), default="schema", help="whose settings")
    options = parser.parse_args(arguments)
    columns = ("jobs", "jobs/s", *(f"{step}, ms" for step in STEPS), *(f"{name}, MiB (dead)" for name in TABLES))
    print(" | ".join(columns))
    with fresh_stack() as stack:
        load = Load(stack, options.kept)
        if options.vacuum == "default":
            load.reset_vacuum()
        if options.history:
            load.add_history(options.history)
        for tenth in range(1, 11):
            began = time.perf_counter()
            for _ in range(options.jobs // 10 // TOGETHER):
                load.round()
            took, found = time.perf_counter() - began, sizes(load.owner)
            row = (
                f"{tenth * options.jobs // 10:,}",
                f"{options.jobs / 10 / took:.0f}",
                *(percentiles(load.took[step]) for step in STEPS),
                *(f"{found[name][0]:.1f} ({found[name][1]:,})" for name in TABLES),
            )
            print(" | ".join(row), flush=True)
            load.took.clear()
        with load.owner.connect() as connection:
            lost = connection.scalar(text("SELECT count(*) FROM jobs WHERE state <> 'succeeded'"))
        print(f"jobs that have not succeeded: {lost}")


if __name__ == "__main__":
    main()
