"""How long a claim takes: `python -m tests.benchmarks.claims [--most N]`.

Waiting: claims among 1,000 up to N shards of two releases, in turn and of the loaded release.
Dead entries: claims after thousands of others, while a transaction that began before them keeps Postgres from removing
the index entries of claimed shards. "From the start" looks at the whole index, as a claim without memory does.
Each claim is a transaction of its own, as a worker makes it. Reports medians in milliseconds.
"""

import argparse
import statistics
import time
import uuid
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, Engine, text

from services.job_queue import leases, processes
from services.job_queue.claims import ClaimedShard, claim_sampling
from services.job_queue.states import ProcessKind
from services.job_queue.worker_claims import WorkerClaims
from tests.support.stack import Stack, fresh_stack

RELEASES = "0" * 64, "1" * 64
CLAIMS = 300  # of each figure
ROUNDS = 5  # of dead entries
BETWEEN = 3_000  # claims between two rounds

Claim = Callable[[Connection], list[ClaimedShard]]


def fill(engine: Engine, job_id: uuid.UUID, count: int) -> None:
    """Replace all work by waiting shards."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE work"))
        connection.execute(
            text("""
                INSERT INTO work (job_id, kind, start, stop, queue, tenant, pack_key, rank, cost)
                SELECT :job, 'sample', 16 * n, 16 * n + 16, 'default', 'default', repeat((n % 2)::text, 64),
                    640 * n, 640
                FROM generate_series(1, :count) AS n
            """),
            {"job": job_id, "count": count},
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE work"))


def median_ms(engine: Engine, claim: Claim, count: int = CLAIMS) -> float:
    """Return the median of claims in milliseconds. What they claim is completed."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        with engine.begin() as connection:
            shards = claim(connection)
        took.append(1000 * (time.perf_counter() - began))
        with engine.begin() as connection:
            for shard in shards:
                leases.complete(connection, shard)
    return statistics.median(took)


def claimers(worker: uuid.UUID) -> dict[str, Claim]:
    """Return ways to claim, by name: as a worker does, in turn and of its loaded release, and without memory."""
    in_turn, of_release = WorkerClaims(["default"]), WorkerClaims(["default"])

    def claim_of_release(connection: Connection) -> list[ClaimedShard]:
        of_release.begin_slice(60)
        return of_release.claim(connection, worker, release=RELEASES[0])

    return {
        "in turn": lambda connection: in_turn.claim(connection, worker),
        "loaded release": claim_of_release,
        "from the start": lambda connection: claim_sampling(connection, worker, queues=["default"]),
    }


def claim_many(engine: Engine, worker: uuid.UUID, count: int) -> None:
    """Claim and complete shards, a hundred in a transaction."""
    for _ in range(count // 100):
        with engine.begin() as connection:
            for shard in claim_sampling(connection, worker, queues=["default"], count=100):
                leases.complete(connection, shard)


def measure(stack: Stack, most: int) -> Table:
    """Return a table of the measurements."""
    owner, engine = stack.engine("migrator"), stack.engine("worker")
    job_id = stack.submit({"items": [{"class_label": 1}], "steps": 1})
    with engine.begin() as connection:
        worker = processes.register(connection, ProcessKind.WORKER)
    table = Table("milliseconds of a claim", *claimers(worker), box=None)

    def add_row(name: str, ways: dict[str, Claim]) -> None:
        table.add_row(name, *(f"{median_ms(engine, claim):.2f}" for claim in ways.values()))

    for count in sorted({1_000, 100_000, most}):
        fill(owner, job_id, count)
        add_row(f"{count:,} waiting", claimers(worker))
    fill(owner, job_id, 2 * ROUNDS * BETWEEN)
    ways = claimers(worker)
    with owner.connect().execution_options(isolation_level="REPEATABLE READ") as old:
        old.execute(text("SELECT count(*) FROM jobs"))
        for number in range(ROUNDS):
            add_row(f"an open transaction, {number * BETWEEN:,} claims old", ways)
            claim_many(engine, worker, BETWEEN)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    with fresh_stack() as stack:
        Console().print(measure(stack, options.most))


if __name__ == "__main__":
    main()
