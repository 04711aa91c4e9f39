"""The dispatcher: listens, plans and finalizes jobs, sends hints, takes back what lost processes held.

Any number may run; each does whatever piece it claims first. It needs no GPU and no torch.
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
from services.job_queue import claims, jobs, leases, maintenance, notifications, queues
from services.job_queue.leases import Lease, LeaseLost
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

RECONCILE_S = 2.0
PAUSE_AFTER_ERROR_S = 2.0


class Dispatcher:
    """`run` returns after `stop`, with the work at hand completed."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore, app: Celery) -> None:
        self.settings, self.database, self.store, self.app = settings, database, store, app
        self.heartbeat = Heartbeat(database, ProcessKind.DISPATCHER, settings.heartbeat_s, self._tokens)
        self.watchdog = Watchdog(settings.step_limit_s)
        self.health = Health(self.heartbeat, self.watchdog, settings.stale_s)
        self._at_hand: list[Lease] = []
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._reconciled = 0.0
        self._broker_is_silent = False

    def stop(self) -> None:
        """End after the work at hand; safe in a signal handler."""
        self.health.draining = True
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """Serve until `stop`."""
        self.heartbeat.start()
        self.watchdog.start()
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        log.info("dispatcher %s serves", self.heartbeat.id)
        while not self._stopping.is_set():
            self.watchdog.tick()
            try:
                self._wake.clear()
                self._stop_jobs()
                due = self._reconcile()
                busy = self._work()
                if busy or due:
                    self._hint()
            except DBAPIError as error:
                log.warning("database: %s; trying again", brief(error))
                self._stopping.wait(PAUSE_AFTER_ERROR_S)
                continue
            if not busy:
                self._wake.wait(self.settings.poll_s)
        self.watchdog.stop()
        self.heartbeat.stop()
        log.info("dispatcher %s stopped", self.heartbeat.id)

    # -- planning and finalizing -----------------------------------------------------------------

    def _work(self) -> bool:
        with self.database.begin() as connection:
            claimed = claims.claim_planning(connection, self.heartbeat.id)
        self._at_hand = list(claimed)
        try:
            for lease in claimed:
                self.watchdog.tick()
                self._do(lease)
        finally:
            self._at_hand = []  # after an error the heartbeat gives the rest back
        return bool(claimed)

    def _tokens(self) -> list[int]:
        return [lease.token for lease in self._at_hand]

    def _do(self, lease: Lease) -> None:
        """One piece of work in one transaction; an error spends an attempt of it and of nothing else."""
        try:
            with self.database.begin() as connection:
                if lease.kind == WorkKind.PLAN:
                    reason = planner.plan_job(connection, self.store, lease)
                    told = f"rejected: {reason}" if reason else "planned"
                    log.info("job %s %s", lease.job_id, told, extra=logs.lease_fields(lease))
                    metrics.JOBS_PLANNED.labels("rejected" if reason else "planned").inc()
                else:
                    state = finalizer.finalize(connection, self.store, lease)
                    log.info("job %s %s", lease.job_id, state, extra=logs.lease_fields(lease))
                    metrics.JOBS_FINISHED.labels(state).inc()
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))
        except Exception as error:
            told = f"work {lease.id} ({lease.kind} of job {lease.job_id}) failed: {brief(error)}"
            log.warning("%s", told, extra=logs.lease_fields(lease))
            self._failed(lease, error)

    def _failed(self, lease: Lease, error: Exception) -> None:
        told = f"{type(error).__name__}: {brief(error)}"
        try:
            with self.database.begin() as connection:
                if is_transient(error):
                    leases.postpone(connection, lease, told)
                elif not leases.fail_attempt(connection, lease, told):
                    jobs.fail_job(connection, lease.job_id, f"{lease.kind} failed: {brief(error)}")
        except LeaseLost:
            log.warning("lease lost: work %d", lease.id, extra=logs.lease_fields(lease))

    # -- hints, rescue, jobs that are to stop ------------------------------------------------------

    def _hint(self) -> None:
        with self.database.begin() as connection:
            names = queues.queues_with_work(connection)
        for queue in names:
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

    def _reconcile(self) -> bool:
        """Put back what is due and what lost processes held; one dispatcher at a time is enough. Whether it was due."""
        if time.monotonic() - self._reconciled < RECONCILE_S:
            return False
        self._reconciled = time.monotonic()
        with self.database.begin() as connection:
            if not maintenance.try_lock(connection):
                return True
            maintenance.wake_delayed(connection)
            again, failed = maintenance.rescue(connection, stale_s=self.settings.stale_s)
            for lease in failed:
                self._fail(connection, lease)
        metrics.RESCUES.inc(len(again) + len(failed))
        for lease in again:
            told = f"work {lease.id} of job {lease.job_id} taken back from a lost process"
            log.warning("%s", told, extra=logs.lease_fields(lease))
        return True

    def _fail(self, connection: Connection, lease: Lease) -> None:
        error = "every process that worked on it alone was lost"
        if lease.kind == WorkKind.SAMPLE:
            jobs.fail_shard(connection, lease, error)
        else:
            jobs.fail_job(connection, lease.job_id, f"{lease.kind}: {error}")

    # -- threads ------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Wake on NOTIFY. A pooler or a half-open connection may swallow it, so the loop polls as well."""
        while not self._stopping.is_set():
            try:
                for announced in notifications.listen(self.database.url):
                    if announced:
                        self._wake.set()
                    if self._stopping.is_set():
                        return
            except psycopg.Error:
                self._stopping.wait(PAUSE_AFTER_ERROR_S)
