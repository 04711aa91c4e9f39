"""Upkeep of the queue: stop jobs, wake delayed work, rescue work of lost processes, end old transactions of clients.

Every dispatcher does it. Each step is a transaction of limited size, and skips rows that another process has locked, so
that neither a large job nor a frozen dispatcher delays the others.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import autocommit
from services.database.faults import is_fault_of_a_row
from services.dispatcher.strikes import Strikes
from services.job_queue import jobs, maintenance, setting_aside, stopping
from services.job_queue.leases import Lease
from services.job_queue.states import WorkKind
from services.observability import logs, metrics
from services.process.watchdog import Watchdog

log = logging.getLogger("darkroom.dispatcher")

# A client needs seconds to submit. What is open for longer keeps dead rows and notifications from being removed.
CLIENT_TRANSACTION_S = 300.0
SUSPECTS = 20  # jobs of a round that are stopped one by one
SUSPECTS_INTERVAL_S = 2.0  # a cause that passes is given some seconds
BATCHES = 10  # of lost work in a round
LOCK_MISSES = 30  # in a row, after which the lock counts as stuck


class Upkeep:
    """The upkeep of one dispatcher. Each method is one round, and returns whether there may be more to do at once."""

    def __init__(self, database: Database, watchdog: Watchdog, stale_s: float) -> None:
        self.database, self.watchdog, self.stale_s = database, watchdog, stale_s
        self._reading = autocommit(database)  # fewer round trips, for single statements
        self._accepting = Strikes[uuid.UUID]("accepting a cancel request", self._drop_request)
        self._stopping = Strikes[uuid.UUID]("stopping", self.set_job_aside)
        self._waking = Strikes[int]("waking", self.set_work_aside)
        self._rescuing = Strikes[int]("rescuing", self.set_work_aside)
        self._told: set[uuid.UUID] = set()  # jobs of the last batch: a large job is in many of them
        self._has_progress = False
        self._lock_misses = 0
        self._tried_suspects_at = 0.0
        self._watching: Connection | None = None  # see `end_client_sessions`

    # -- jobs to stop ------------------------------------------------------------------------------

    def stop_jobs(self) -> bool:
        """Accept requests to cancel, and end a limited amount of work of jobs that must stop."""
        with self._reading.connect() as connection:
            requests = stopping.find_cancel_requests(connection)
        self._accepting.handle(requests, self._accept)
        fresh, suspects = self._find_jobs()
        if not fresh and not suspects:
            return False
        self._has_progress = False
        with self._lock() as is_locked:
            if not is_locked:
                return False
            fresh, suspects = self._find_jobs()  # Another dispatcher may have stopped them.
            self._stopping.handle([job.id for job in fresh], self._stop)
            for job in suspects:
                self._stop_suspect(job)
        return self._has_progress

    def _accept(self, job_ids: Sequence[uuid.UUID]) -> None:
        with self.database.begin() as connection:
            stopping.accept_cancel_requests(connection, job_ids)
        self.watchdog.tick()

    def _drop_request(self, job_id: uuid.UUID, reason: str) -> None:
        with self.database.begin() as connection:
            stopping.drop_cancel_request(connection, job_id)

    def _find_jobs(self) -> tuple[list[stopping.StoppingJob], list[stopping.StoppingJob]]:
        excluded = list(self._stopping.given_up)
        suspects = []
        with self._reading.connect() as connection:
            fresh = stopping.find_jobs_to_stop(connection, excluded=excluded)
            if time.monotonic() - self._tried_suspects_at >= SUSPECTS_INTERVAL_S:
                suspects = stopping.find_jobs_to_stop(connection, suspect=True, excluded=excluded, limit=SUSPECTS)
        return fresh, suspects

    def _stop(self, job_ids: Sequence[uuid.UUID]) -> None:
        with self.database.begin() as connection:
            begun = stopping.begin_attempt(connection, job_ids)
        try:
            with self.database.begin() as connection:
                requests, pieces = stopping.stop_jobs(connection, begun)
        except Exception as error:
            if len(begun) > 1 or not is_fault_of_a_row(error):
                self._forgive(begun)
            raise
        stopped = {request.job_id for request in requests}
        self._forgive([job_id for job_id in begun if job_id not in stopped])
        for request in requests:
            if request.job_id not in self._told:
                log.info("job %s is stopped: %s", request.job_id, request.reason, extra=logs.job_fields(request.job_id))
        self._told = stopped if pieces else set()
        self._has_progress = self._has_progress or pieces > 0
        self.watchdog.tick()

    def _forgive(self, job_ids: Sequence[uuid.UUID]) -> None:
        if job_ids:
            with self.database.begin() as connection:
                stopping.forgive_attempt(connection, job_ids)

    def _stop_suspect(self, job: stopping.StoppingJob) -> None:
        self._tried_suspects_at = time.monotonic()
        if job.failures < stopping.MAX_FAILURES:
            self._stopping.handle([job.id], self._stop)
        else:
            reason = f"{stopping.MAX_FAILURES} attempts at stopping failed or ended their process"
            self._stopping.end(job.id, f"set aside by the service: {reason}")

    @contextmanager
    def _lock(self) -> Iterator[bool]:
        """Hold the lock of stopping, in a transaction of its own, so that attempts are counted one at a time."""
        with self.database.connect() as connection:
            is_locked = maintenance.try_lock(connection)
            self._lock_misses = 0 if is_locked else self._lock_misses + 1
            if not is_locked:
                metrics.LOCK_MISSES.labels("reconcile").inc()
            if self._lock_misses == LOCK_MISSES:
                log.warning("jobs that must stop wait for the lock `reconcile`: another process holds it all the time, "
                            "or its row in service_locks is missing")  # fmt: skip
            yield is_locked
            try:
                connection.rollback()
            except DBAPIError:
                log.debug("the lock was lost")  # It has protected what it should: all else is committed.

    # -- delayed and lost work ---------------------------------------------------------------------

    def wake_delayed(self) -> bool:
        """Make delayed work ready that is due."""
        with self._reading.connect() as connection:
            due = maintenance.find_due_work(connection)
        self._waking.handle(due, self._wake)
        return len(due) == maintenance.ROWS

    def _wake(self, work_ids: Sequence[int]) -> None:
        with self.database.begin() as connection:
            maintenance.wake_delayed(connection, work_ids)
        self.watchdog.tick()

    def rescue(self) -> bool:
        """Take work back from lost processes."""
        lost: list[int] = []
        for _ in range(BATCHES):
            with self._reading.connect() as connection:
                lost = maintenance.find_lost_work(connection, self.stale_s)
            self._rescuing.handle(lost, self._rescue)
            if len(lost) < maintenance.ROWS:
                break
        return bool(lost)

    def _rescue(self, work_ids: Sequence[int]) -> None:
        with self.database.begin() as connection:
            retried, failed = maintenance.rescue(connection, work_ids, stale_s=self.stale_s)
            for lease in failed:
                _fail(connection, lease)
        metrics.RESCUES.inc(len(retried) + len(failed))
        for lease in retried:
            message = f"work {lease.id} of job {lease.job_id} is recovered from a lost process"
            log.warning("%s", message, extra=logs.lease_fields(lease))
        self.watchdog.tick()

    # -- clients -----------------------------------------------------------------------------------

    def end_client_sessions(self) -> bool:
        """End sessions of clients whose transaction has been open for too long, or that hold too many locks.

        Once all locks are taken, Postgres lets nobody connect. So this keeps its session, which needs none.
        """
        if self._watching is None:
            self._watching = self._reading.connect()
        try:
            ended = maintenance.end_client_sessions(self._watching, CLIENT_TRANSACTION_S)
        except DBAPIError as error:
            if error.connection_invalidated:
                self._watching = None
            raise
        finally:
            if self._watching is not None:
                self._watching.rollback()
        if ended:
            metrics.CLIENT_SESSIONS_ENDED.inc(ended)
            message = "ended %d sessions of clients with a transaction older than %g s, or with a quarter of all locks"
            log.warning(message, ended, CLIENT_TRANSACTION_S)
        return False

    # -- what cannot be handled --------------------------------------------------------------------

    def set_work_aside(self, work_id: int, reason: str) -> None:
        """End work that cannot be handled, and fail its job with the reason."""
        with self.database.begin() as connection:
            job_id = setting_aside.set_work_aside(connection, work_id, reason)
        if job_id is not None:
            self.set_job_aside(job_id, reason)

    def set_job_aside(self, job_id: uuid.UUID, reason: str) -> None:
        """Fail a job with a reason, after its unclaimed work is cancelled."""
        with self.database.begin() as connection:
            stopping.begin_attempt(connection, [job_id])
        cancelled = setting_aside.BATCH
        while cancelled == setting_aside.BATCH:
            with self.database.begin() as connection:
                cancelled = setting_aside.cancel_open_work(connection, job_id)
            self.watchdog.tick()
        with self.database.begin() as connection:
            setting_aside.set_job_aside(connection, job_id, reason)


def _fail(connection: Connection, lease: Lease) -> None:
    error = "every process that worked on it alone was lost; most often such a process runs out of memory"
    if lease.kind == WorkKind.SAMPLE:
        jobs.fail_shard(connection, lease, error)
    else:
        jobs.fail_job(connection, lease.job_id, f"{lease.kind}: {error}")
