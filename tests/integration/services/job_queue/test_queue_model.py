"""In every order of claims, losses, errors, cancelling and retrying, no image is lost or doubled and no job is stuck.

A state machine runs the queue's statements on real Postgres at random, and compares the result with what it expects.
The transactions are recorded: all of them must be allowed by the model of docs/queue_model.md.
"""

import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text

from services.dispatcher import planner
from services.job_queue import claims, jobs, leases, outputs, processes, stopping
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.outputs import Outcome, Output, Settling
from services.job_queue.states import RETRYABLE, TERMINAL, ProcessKind, WorkKind
from tests.model import recording
from tests.model.replay import Replay
from tests.support.job_queue import rescue, settle, stop_jobs, wake_delayed
from tests.support.stack import Stack
from tests.support.tenants import administrator
from tests.support.thoroughness import THOROUGH

pytestmark = pytest.mark.long

WORKERS = 3
PICK = st.integers(0, 7)  # counted from the latest
ENDS = ("store_all", "store_some", "store_all_but_one", "fail_an_attempt", "release", "isolate", "look_around")


class QueueMachine(RuleBasedStateMachine):
    """Jobs of up to 40 images, three workers, one dispatcher."""

    stack: Stack
    engine: Engine

    @initialize()
    def begin(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("DELETE FROM outputs"))
            connection.execute(text("DELETE FROM jobs"))
            self.workers = [processes.register(connection, ProcessKind.WORKER) for _ in range(WORKERS)]
            self.dispatcher = processes.register(connection, ProcessKind.DISPATCHER)
        self.good: dict[tuple[uuid.UUID, int], str] = {}  # stored images, which must stay
        self.tokens: set[int] = set()
        self.held: list[Lease] = []
        self.submitted: list[uuid.UUID] = []

    # -- rules -------------------------------------------------------------------------------------

    # The rules are few because the machine leaves some of them out of each run.

    @rule(
        images=st.integers(1, 40),
        priority=st.integers(-2, 2),
        planned=st.sampled_from([True] * 4 + [False]),
        is_chain=st.booleans(),
    )
    def submit(self, images: int, priority: int, planned: bool, is_chain: bool) -> None:
        request: dict[str, Any] = {"items": [{"class_label": 1}], "images_per_item": images}
        if is_chain:
            request["then"] = [{"model": "tiny", "strength": 0.5}]
        self.submitted.append(self.stack.submit(request, priority=priority))
        if planned:
            self.dispatch()

    @rule()
    def dispatch(self) -> None:
        """One round of the dispatcher."""
        with self.engine.begin() as connection:
            stop_jobs(connection)
            connection.execute(text("UPDATE work SET run_after = now() WHERE state = 'delayed'"))
            wake_delayed(connection)
        with self.engine.begin() as connection:
            claimed = claims.claim_planning(connection, self.dispatcher)
        for lease in claimed:
            if lease.kind == WorkKind.PLAN:
                assert planner.plan_job(self.engine, self.stack.store(), lease) is None
            else:
                with self.engine.begin() as connection:
                    jobs.end_job(connection, lease, "manifest")

    @rule(worker=st.integers(0, WORKERS - 1), count=st.integers(1, 3))
    def claim(self, worker: int, count: int) -> None:
        if self.holds_suspect(self.workers[worker]):
            return
        with self.engine.begin() as connection:
            found = claims.claim_sampling(connection, self.workers[worker], queues=["default"], count=count)
            jobs.begin_shards(connection, found)
        self.take(found)

    @rule()
    def claim_all_at_once(self) -> None:
        """All workers claim at the same moment. No shard goes to two of them."""
        found: list[Lease] = []
        barrier = threading.Barrier(WORKERS)

        def claimer(worker: uuid.UUID) -> None:
            may_claim = not self.holds_suspect(worker)
            barrier.wait()
            if not may_claim:
                return
            with self.engine.begin() as connection:
                found.extend(claims.claim_sampling(connection, worker, queues=["default"], count=2))

        threads = [threading.Thread(target=claimer, args=(worker,)) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({lease.id for lease in found}) == len(found)
        self.take(found)

    def take(self, found: Sequence[Lease]) -> None:
        tokens = {lease.token for lease in found}
        assert len(tokens) == len(found)
        assert not tokens & self.tokens, "a token was given twice"
        self.tokens |= tokens
        self.held += found

    # Draws must not depend on the database's answers, so a number picks a lease or a job.

    @rule(pick=PICK, how=st.sampled_from(ENDS), share=st.floats(0, 1))
    def end(self, pick: int, how: str, share: float) -> None:
        """A holder acts on a lease, which may be stale. A stale lease changes nothing."""
        if not self.held:
            return
        lease = self.held[-1 - pick % len(self.held)]
        current = self.is_current(lease)
        try:
            getattr(self, how)(lease, share)
        except LeaseLost:
            assert not current, "a holder was refused"
        else:
            assert current or how == "look_around", "a stale holder was not"

    def store_all(self, lease: Lease, share: float) -> None:
        self.store(lease, lease.stop, failing=None)

    def store_some(self, lease: Lease, share: float) -> None:
        self.store(lease, lease.start + round(share * (lease.stop - lease.start)), failing=None)

    def store_all_but_one(self, lease: Lease, share: float) -> None:
        self.store(lease, lease.stop, failing=lease.start)

    def store(self, lease: Lease, stop: int, failing: int | None) -> None:
        if lease.suspect:
            self.isolate(lease, 0)
            if self.is_current(lease) and not self.is_alone(lease):
                return
        images = [i for i in range(lease.start, stop) if i != failing]
        records = [Output(i, 0, i, f"key-{i}", uuid.uuid4().hex * 2, 1, "p") for i in images]
        if failing is not None:
            records.append(Output(failing, 0, None, error="bad"))
        with self.engine.begin() as connection:
            if lease.stage == 0:
                settled = outputs.settle_stages(connection, [Settling(lease, records, stop == lease.stop)], waits=True)
                if settled[lease.id] == Outcome.LOST:
                    raise leases.lease_lost(lease)
                return
            before = outputs.settled_indices(connection, lease.job_id, lease.start, lease.stop)
            settle(connection, lease, records, is_last=stop == lease.stop)
        for index in images:
            if index not in before:
                self.good[lease.job_id, index] = records[images.index(index)].sha256 or ""

    def fail_an_attempt(self, lease: Lease, share: float) -> None:
        with self.engine.begin() as connection:
            jobs.fail_shard_attempt(connection, lease, "boom")

    def release(self, lease: Lease, share: float) -> None:
        with self.engine.begin() as connection:
            leases.release_lease(connection, lease)

    def holds_suspect(self, worker: uuid.UUID) -> bool:
        with self.engine.connect() as connection:
            query = text("SELECT EXISTS (SELECT FROM work WHERE owner = :id AND state = 'leased' AND suspect)")
            return bool(connection.scalar(query, {"id": worker}))

    def is_alone(self, lease: Lease) -> bool:
        with self.engine.connect() as connection:
            query = text("SELECT count(*) FROM work WHERE state = 'leased' AND owner = "
                         "(SELECT owner FROM work WHERE id = :id)")  # fmt: skip
            return connection.scalar(query, {"id": lease.id}) == 1

    def isolate(self, lease: Lease, share: float) -> None:
        """A worker isolates a suspect once it holds nothing else."""
        if self.is_current(lease) and not (lease.suspect and self.is_alone(lease)):
            return
        with self.engine.begin() as connection:
            claims.isolate(connection, lease)

    def look_around(self, lease: Lease, share: float) -> None:
        with self.engine.begin() as connection:
            for request in stopping.find_stop_requests(connection, [lease.job_id]):
                stopping.stop_shard(connection, lease, request)

    @rule(worker=st.integers(0, WORKERS - 1), of_its_own_will=st.booleans())
    def a_worker_ends(self, worker: int, of_its_own_will: bool) -> None:
        with self.engine.begin() as connection:
            if of_its_own_will:
                processes.retire(connection, self.workers[worker])
            else:
                connection.execute(
                    text("UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = :id"),
                    {"id": self.workers[worker]},
                )
                # Only that worker is stale, however slow this machine is.
                _, failed = rescue(connection, stale_s=1800)
                for lease in failed:
                    jobs.fail_shard(connection, lease, "lost")
            self.workers[worker] = processes.register(connection, ProcessKind.WORKER)

    @rule(pick=PICK)
    def cancel_or_retry(self, pick: int) -> None:
        """The owner retries the job if its state permits that, and cancels it if not."""
        if not self.submitted:
            return
        job_id = self.submitted[-1 - pick % len(self.submitted)]
        row = self.stack.job(job_id)
        with self.stack.engine("submitter").begin() as connection:
            if row.state in RETRYABLE and row.plan is not None:
                assert connection.scalar(text("SELECT retry_job(:id)"), {"id": job_id}) == row.revision + 1
            else:
                connection.execute(text("SELECT cancel_job(:id)"), {"id": job_id})

    # -- invariants ------------------------------------------------------------------------------

    def is_current(self, lease: Lease) -> bool:
        with self.engine.connect() as connection:
            query = text("SELECT state = 'leased' AND token = :token FROM work WHERE id = :id")
            return bool(connection.scalar(query, {"id": lease.id, "token": lease.token}))

    @invariant()
    def counts_are_those_of_the_outputs(self) -> None:
        with self.engine.connect() as connection:
            wrong = connection.execute(
                text("""
                    SELECT id FROM jobs LEFT JOIN (
                        SELECT job_id, count(key) AS good, count(error) AS bad FROM outputs GROUP BY job_id) AS counted
                    ON job_id = id
                    WHERE (succeeded, failed) <> (coalesce(good, 0), coalesce(bad, 0)) OR succeeded + failed > total
                """)
            ).all()
            rows = connection.execute(text("SELECT job_id, index, sha256 FROM outputs WHERE key IS NOT NULL")).all()
        assert wrong == []
        # No image is lost, none is recorded that was not stored, and the first record stays.
        assert {(job_id, index): sha256 for job_id, index, sha256 in rows} == self.good

    @invariant()
    def a_job_has_open_work_exactly_until_it_has_ended(self) -> None:
        with self.engine.connect() as connection:
            wrong = connection.execute(
                text("""
                    SELECT id, state FROM jobs WHERE (finished_at IS NOT NULL) = EXISTS (
                        SELECT FROM work WHERE job_id = jobs.id AND state IN ('ready', 'delayed', 'leased'))
                """)
            ).all()
        assert wrong == []

    # -- the end ---------------------------------------------------------------------------------

    def teardown(self) -> None:
        """With healthy workers every job ends."""
        if not hasattr(self, "workers"):
            return
        for worker in range(WORKERS):
            self.a_worker_ends(worker, of_its_own_will=False)
        for _ in range(200):
            self.dispatch()
            with self.engine.begin() as connection:
                found = claims.claim_sampling(connection, self.workers[0], queues=["default"], count=100)
            for lease in found:
                self.store(lease, lease.stop, failing=None)
            with self.engine.connect() as connection:
                if not connection.scalar(text("SELECT count(*) FROM jobs WHERE finished_at IS NULL")):
                    break
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM jobs")).all()
        assert {row.state for row in rows} <= TERMINAL
        for row in rows:
            if row.state != "cancelled":
                assert row.succeeded + row.failed == row.total


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    with administrator(stack) as owner:
        recording.install(owner)
        yield stack.engine("migrator")
        recording.remove(owner)
        owner.execute("DELETE FROM outputs")
        owner.execute("DELETE FROM jobs")


def test_no_image_is_lost_or_doubled_and_no_job_is_stuck(stack: Stack, engine: Engine) -> None:
    class Machine(QueueMachine):
        pass

    Machine.stack, Machine.engine = stack, engine
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30 if THOROUGH else 8, stateful_step_count=80, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # shrinking takes minutes
        ),
    )  # fmt: skip
    replay = Replay(stale_s=1800)
    with administrator(stack) as owner:
        replay.run(recording.read(owner))
    print(f"{replay.transactions} transactions; steps: {replay.steps}")
    assert {
        "claims work",
        "stores image ",
        "stores image  of stage ",
        "ends stage ",
        "the client retries the job",
    } <= replay.steps.keys()
