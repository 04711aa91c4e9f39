"""The dispatcher: plans and finalizes jobs, sends hints to workers, and rescues work of lost processes.

Any number of dispatchers may run; each works on whatever it claims first. A dispatcher needs neither a GPU nor torch.
"""

import logging
import threading
import time

import psycopg
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import Connection
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.dispatcher import finalizer, planner
from services.job_queue import claims, jobs, leases, maintenance, notifications
from services.job_queue.leases import Lease, LeaseLost
from services.job_queue.queues import queues_with_work
from services.job_queue.states import ProcessKind, WorkKind
from services.observability import logs, metrics
from services.process import celery_app
from services.process.health import Health
from services.process.heartbeat import Heartbeat
from services.process.watchdog import Watchdog
from services.settings import Settings
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient

log = logging.getLogger("darkroom.dispatcher")

RECONCILE_INTERVAL_S = 2.0
RETRY_INTERVAL_S = 2.0  # after an error of the database


class Dispatcher:
    """A dispatcher process. `run` returns after `stop`, once the work at hand is completed."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore, app: Celery) -> None:
        self.settings, self.database, self.store, self.app = settings, database, store, app
        self.heartbeat = Heartbeat(database, ProcessKind.DISPATCHER, settings.heartbeat_s, self._held_tokens)
        self.watchdog = Watchdog(settings.step_limit_s)
        self.health = Health(self.heartbeat, self.watchdog, settings.stale_s)
        self._held: list[Lease] = []
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._reconciled_at = 0.0
        self._broker_is_silent = False

    def stop(self) -> None:
        """Stop after the work at hand. Safe to call from a signal handler."""
        self.health.draining = True
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """Serve until `stop` is called."""
        self.heartbeat.start()
        self.watchdog.start()
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        log.info("dispatcher %s serves", self.heartbeat.id)
        while not self._stopping.is_set():
            self.watchdog.tick()
            try:
                self._wake.clear()
                self._stop_jobs()
                reconciled = self._reconcile_if_due()
                worked = self._claim_and_work()
                if worked or reconciled:
                    self._send_hints()
            except DBAPIError as error:
                log.warning("database: %s; trying again", brief(error))
                self._stopping.wait(RETRY_INTERVAL_S)
                continue
            if not worked:
                self._wake.wait(self.settings.poll_s)
        self.watchdog.stop()
        self.heartbeat.stop()
        log.info("dispatcher %s stopped", self.heartbeat.id)

    # -- planning and finalizing -----------------------------------------------------------------

    def _claim_and_work(self) -> bool:
        """Plan and finalize what can be claimed now. Returns whether that was anything."""
        with self.database.begin() as connection:
            claimed = claims.claim_planning(connection, self.heartbeat.id)
        self._held = list(claimed)
        try:
            for lease in claimed:
                self.watchdog.tick()
                self._work_on(lease)
        finally:
            self._held = []  # After an error the heartbeat returns the remaining leases to the queue.
        return bool(claimed)

    def _held_tokens(self) -> list[int]:
        return [lease.token for lease in self._held]

    def _work_on(self, lease: Lease) -> None:
        """Plan or finalize in one transaction. An error counts as an attempt of this work alone."""
        try:
            with self.database.begin() as connection:
                if lease.kind == WorkKind.PLAN:
                    reason = planner.plan_job(connection, self.store, lease)
                    outcome = f"rejected: {reason}" if reason else "planned"
                    log.info("job %s %s", lease.job_id, outcome, extra=logs.lease_fields(lease))
                    metrics.JOBS_PLANNED.labels("rejected" if reason else "planned").inc()
                else:
                    state = finalizer.finalize(connection, self.store, lease)
                    log.info("job %s %s", lease.job_id, state, extra=logs.lease_fields(lease))
                    metrics.JOBS_FINISHED.labels(state).inc()
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))
        except Exception as error:
            message = f"work {lease.id} ({lease.kind} of job {lease.job_id}) failed: {brief(error)}"
            log.warning("%s", message, extra=logs.lease_fields(lease))
            self._end_attempt(lease, error)

    def _end_attempt(self, lease: Lease, error: Exception) -> None:
        message = f"{type(error).__name__}: {brief(error)}"
        try:
            with self.database.begin() as connection:
                if is_transient(error):
                    leases.postpone(connection, lease, message)
                elif not leases.fail_attempt(connection, lease, message):
                    jobs.fail_job(connection, lease.job_id, f"{lease.kind} failed: {brief(error)}")
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))

    # -- hints, rescue, jobs to stop ---------------------------------------------------------------

    def _send_hints(self) -> None:
        """Wake one worker of each queue that has work. Without a broker, workers find work by polling."""
        with self.database.begin() as connection:
            queues = queues_with_work(connection)
        for queue in queues:
            try:
                celery_app.send_hint(self.app, queue)
                self._broker_is_silent = False
                metrics.BROKER_UP.set(1)
            except (BrokerError, OSError) as error:
                if not self._broker_is_silent:
                    log.warning("the broker does not answer (%s); workers find work by polling", brief(error))
                self._broker_is_silent = True
                metrics.BROKER_UP.set(0)

    def _stop_jobs(self) -> None:
        with self.database.begin() as connection:
            for request in maintenance.stop_jobs(connection):
                log.info("job %s is stopped: %s", request.job_id, request.reason, extra=logs.job_fields(request.job_id))

    def _reconcile_if_due(self) -> bool:
        """Wake delayed work and rescue work of lost processes, one dispatcher at a time. Returns whether it was due."""
        if time.monotonic() - self._reconciled_at < RECONCILE_INTERVAL_S:
            return False
        self._reconciled_at = time.monotonic()
        with self.database.begin() as connection:
            if not maintenance.try_lock(connection):
                return True
            maintenance.wake_delayed(connection)
            retried, failed = maintenance.rescue(connection, stale_s=self.settings.stale_s)
            for lease in failed:
                self._fail(connection, lease)
        metrics.RESCUES.inc(len(retried) + len(failed))
        for lease in retried:
            message = f"work {lease.id} of job {lease.job_id} is recovered from a lost process"
            log.warning("%s", message, extra=logs.lease_fields(lease))
        return True

    def _fail(self, connection: Connection, lease: Lease) -> None:
        error = "every process that worked on it alone was lost"
        if lease.kind == WorkKind.SAMPLE:
            jobs.fail_shard(connection, lease, error)
        else:
            jobs.fail_job(connection, lease.job_id, f"{lease.kind}: {error}")

    # -- threads ------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Wake on NOTIFY. The loop polls as well, because a half-open connection may lose notifications."""
        while not self._stopping.is_set():
            try:
                for is_announced in notifications.listen(self.database.url):
                    if is_announced:
                        self._wake.set()
                    if self._stopping.is_set():
                        return
            except notifications.NotDelivered as error:
                log.warning("%s; new work is found by polling every %g s instead", error, self.settings.poll_s)
                return
            except psycopg.Error:
                self._stopping.wait(RETRY_INTERVAL_S)
