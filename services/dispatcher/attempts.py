"""Attempts at planning and finalizing: claim some, work on each, and count an attempt of the one that failed.

Each attempt is made in a thread, so that a large job or a slow read of S3 delays no other job. A tenant has at most
TENANT_THREADS of the threads.
"""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Engine as Database

from services.database.connections import brief
from services.database.faults import is_fault_of_a_row
from services.dispatcher import finalizer, planner
from services.dispatcher.parsing_memory import ParsingMemory
from services.dispatcher.strikes import Strikes
from services.job_queue import claims, claims_by_id, jobs, leases
from services.job_queue.claims import ClaimedPlanning
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.states import WorkKind
from services.observability import logs, metrics
from services.process.watchdog import Watchdog
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from training.errors import DarkroomError

log = logging.getLogger("darkroom.dispatcher")

THREADS = 6
TENANT_THREADS = 2
SILENT_S = 30.0  # without progress, after which an attempt is reported to the watchdog
SUSPECT_WAIT_S, SUSPECT_PERIOD_S = 10.0, 60.0  # a busy process waits for a suspect so long in each period
LEAVE_S = 5.0  # how long the exiting process waits for a thread to stop


class Stopping(Exception):
    """This process exits, so another one continues the work."""


class Attempt:
    """An attempt that runs in a thread."""

    def __init__(self, lease: ClaimedPlanning) -> None:
        self.lease = lease
        self.name = f"{lease.kind} of job {lease.job_id}"
        self.progressed_at = time.monotonic()
        self.is_stopped = False

    def tick(self) -> None:
        """Record progress. Raises Stopping if the process ends."""
        self.progressed_at = time.monotonic()
        if self.is_stopped:
            raise Stopping


class Attempts:
    """Plans and finalizes what one dispatcher has claimed. One thread alone may call `claim` and `stop`."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        watchdog: Watchdog,
        set_aside: Callable[[int, str], None],
        on_end: Callable[[], None],
    ) -> None:
        """set_aside: ends the work of an id for a reason, and fails its job. on_end: called after each attempt."""
        self.database, self.store, self.watchdog = database, store, watchdog
        self._claiming = Strikes[int]("claiming", set_aside)
        self._ending = Strikes[int]("ending an attempt", set_aside)
        self._memory = ParsingMemory()
        self._on_end = on_end
        self._lock = threading.Lock()
        self._running: dict[Attempt, threading.Thread] = {}
        self.busy_since = time.monotonic()  # when it last had nothing to do

    def held_tokens(self) -> list[int]:
        """Return the tokens of the leases that are held now."""
        return [attempt.lease.token for attempt in self._attempts()]

    def claim(self, process: uuid.UUID) -> bool:
        """Start to plan and finalize what can be claimed now. Returns whether that was anything."""
        self._watch()
        running = self._attempts()
        if not running:
            self.busy_since = time.monotonic()
        if len(running) >= THREADS or any(attempt.lease.suspect for attempt in running):
            return False
        claimed = self._claim(process, Counter(attempt.lease.tenant for attempt in running))
        for lease in claimed:
            attempt = Attempt(lease)
            thread = threading.Thread(target=self._run, args=(attempt,), name=str(lease.kind), daemon=True)
            with self._lock:
                self._running[attempt] = thread
            thread.start()
        return bool(claimed)

    def stop(self, wait_s: float) -> None:
        """Return once nothing runs. What is not done in `wait_s` seconds is left to another process."""
        deadline = time.monotonic() + wait_s
        self._join(deadline)
        for attempt in self._attempts():
            attempt.is_stopped = True
        self._join(time.monotonic() + LEAVE_S)

    def _join(self, deadline: float) -> None:
        with self._lock:
            threads = list(self._running.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _attempts(self) -> list[Attempt]:
        with self._lock:
            return list(self._running)

    def _watch(self) -> None:
        """Tell the watchdog which attempts make no progress."""
        silent = 0
        with self._lock:
            for attempt in self._running:
                silent_s = time.monotonic() - attempt.progressed_at
                if silent_s > SILENT_S:
                    silent += 1
                    self.watchdog.failed(attempt.name, f"no progress for {silent_s:.0f} s")
                else:
                    self.watchdog.succeeded(attempt.name)
        metrics.SILENT_ATTEMPTS.set(silent)

    # -- claiming --------------------------------------------------------------------------------

    def _claim(self, process: uuid.UUID, tenants: Counter[str]) -> list[ClaimedPlanning]:
        """Claim as much as the threads can begin. tenants: how many threads each tenant has."""
        is_idle = not tenants
        try:
            with self.database.begin() as connection:  # a row that cannot be read must not stay leased
                return claims.claim_planning(
                    connection,
                    process,
                    count=THREADS - tenants.total(),
                    each=TENANT_THREADS if is_idle else 1,
                    without=[tenant for tenant, threads in tenants.items() if threads >= TENANT_THREADS],
                    is_idle=is_idle,
                    waits=(time.monotonic() - self.busy_since) % SUSPECT_PERIOD_S < SUSPECT_WAIT_S,
                )
        except Exception as error:
            if not is_fault_of_a_row(error):
                raise
            log.warning("a claim failed (%s); work is claimed one by one", brief(error))
        with self.database.begin() as connection:
            ready = claims_by_id.find_ready_planning(connection)
        claimed: list[ClaimedPlanning] = []

        def claim(work_ids: Sequence[int]) -> None:
            with self.database.begin() as connection:
                found = claims_by_id.claim_work(connection, process, work_ids[0])
            claimed.extend(found)

        for work_id in ready:
            if len(claimed) < THREADS - tenants.total():
                self._claiming.handle([work_id], claim)
        return claimed

    # -- working ---------------------------------------------------------------------------------

    def _run(self, attempt: Attempt) -> None:
        """Plan or finalize. An error counts as an attempt of this work alone."""
        lease = attempt.lease
        try:
            with self._memory.hold(lease.json_bytes, attempt.tick):
                self._work_on(attempt)
        except Stopping:
            log.info("%s is left to another process", attempt.name, extra=logs.lease_fields(lease))
            self._end(lease, lambda: self._release(lease))
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))
        except Exception as error:
            message = f"work {lease.id} ({attempt.name}) failed: {brief(error)}"
            log.warning("%s", message, exc_info=not _is_expected(error), extra=logs.lease_fields(lease))
            self._end(lease, partial(self._end_attempt, lease, error))
        finally:
            with self._lock:
                del self._running[attempt]
                self.watchdog.succeeded(attempt.name)
            self._on_end()

    def _work_on(self, attempt: Attempt) -> None:
        lease = attempt.lease
        if lease.kind == WorkKind.PLAN:
            reason = planner.plan_job(self.database, self.store, lease, attempt.tick)
            outcome = f"rejected: {reason}" if reason else "planned"
            log.info("job %s %s", lease.job_id, outcome, extra=logs.lease_fields(lease))
            metrics.JOBS_PLANNED.labels("rejected" if reason else "planned").inc()
        else:
            state = finalizer.finalize(self.database, self.store, lease, attempt.tick)
            log.info("job %s %s", lease.job_id, state, extra=logs.lease_fields(lease))
            metrics.JOBS_FINISHED.labels(state).inc()

    def _end(self, lease: Lease, end: Callable[[], None]) -> None:
        """End an attempt. If the database is away, the heartbeat returns the lease."""
        try:
            self._ending.handle([lease.id], lambda _: end())
        except Exception as error:
            log.warning("work %d: the end of an attempt was not recorded: %s", lease.id, brief(error))

    def _release(self, lease: Lease) -> None:
        try:
            with self.database.begin() as connection:
                leases.release_lease(connection, lease)
        except LeaseLost:
            pass

    def _end_attempt(self, lease: Lease, error: Exception) -> None:
        message = f"{type(error).__name__}: {brief(error)}"
        try:
            with self.database.begin() as connection:
                if is_transient(error):
                    leases.postpone(connection, lease, message)
                elif not leases.fail_attempt(connection, lease, message):
                    jobs.fail_job(connection, lease.job_id, describe_failure(lease, error))
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))


def _is_expected(error: Exception) -> bool:
    return isinstance(error, DarkroomError) or is_transient(error)


def describe_failure(lease: Lease, error: Exception) -> str:
    """Return the reason of a job whose planning or finalizing has failed for good, in words for its author.

    What an unexpected error says is for the log alone: it may name other tenants' objects or parts of the service.
    """
    step = {WorkKind.PLAN: "planning", WorkKind.FINALIZE: "finalizing"}.get(lease.kind, str(lease.kind))
    if isinstance(error, DarkroomError):
        return f"{step} failed: {leases.storable(brief(error))}"
    return f"{step} failed because of an error in the service; an administrator finds it in the log by the job's id"
