"""The dispatcher: plans and finalizes jobs, sends hints to workers, and keeps the queue up.

Any number of dispatchers may run; each works on whatever it claims first. A dispatcher needs neither a GPU nor torch.
"""

import logging
import threading
import time
from collections.abc import Callable

from celery import Celery
from sqlalchemy import Engine as Database

from services.database.connections import brief
from services.database.faults import is_outage
from services.dispatcher.attempts import Attempts
from services.dispatcher.hints import HintSender
from services.dispatcher.job_changes import JobChanges
from services.dispatcher.upkeep import Upkeep
from services.dispatcher.webhook_sender import WebhookSender
from services.job_queue.states import ProcessKind
from services.observability import metrics
from services.process.health import Health
from services.process.heartbeat import Heartbeat
from services.process.listener import Listener
from services.process.watchdog import Watchdog
from services.registry.request_schemas import make_schemas
from services.settings import Settings
from services.storage.object_store import ObjectStore

log = logging.getLogger("darkroom.dispatcher")

RECONCILE_INTERVAL_S = 2.0
HEAD_START_S = 0.02  # for which the rest of a round waits for attempts that have begun: they need the processor first
RETRY_INTERVAL_S = 2.0  # after an error of the database, and for a part of the loop that fails


class Dispatcher:
    """A dispatcher process. `run` returns after `stop`, once the current work is completed."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore, app: Celery) -> None:
        self.settings, self.database = settings, database
        self.watchdog = Watchdog(settings.step_limit_s)
        self.upkeep = Upkeep(database, self.watchdog, settings.stale_s)
        self.changes = JobChanges(database, self.watchdog)
        self.attempts = Attempts(
            database, store, self.watchdog, self.upkeep.set_work_aside, on_end=self._end_of_attempt
        )
        self.heartbeat = Heartbeat(database, ProcessKind.DISPATCHER, settings.heartbeat_s, self.attempts.held_tokens)
        self.health = Health(self.heartbeat, self.watchdog, settings.stale_s)
        self.hints = HintSender(database, app)
        self.webhooks = WebhookSender(database)
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._listener = Listener(database, self._wake.set, instead=f"polling every {settings.poll_s:g} s")
        self._reconciled_at = 0.0
        self._has_new_code = True  # until all schemas of requests are of this code
        self._paused_until: dict[str, float] = {}  # parts of the loop that have failed

    def stop(self) -> None:
        """Stop after the current work. Safe to call from a signal handler."""
        self.health.draining = True
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """Serve until `stop` is called."""
        self.heartbeat.start()
        self.watchdog.start()
        self.hints.start()
        self.webhooks.start()
        self._listener.start()
        log.info("dispatcher %s serves jobs", self.heartbeat.id)
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                is_busy = self._do_round()
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("database: %s; retrying", brief(error))
                self._stopping.wait(RETRY_INTERVAL_S)
                continue
            if not is_busy:
                self.watchdog.tick("waiting for work")
                self._wake.wait(self.settings.poll_s)
        self._listener.stop()
        self.watchdog.stop()
        self.attempts.stop(self.settings.drain_s)
        self.webhooks.stop()
        self.heartbeat.stop()
        log.info("dispatcher %s stopped", self.heartbeat.id)

    def _do_round(self) -> bool:
        """Do each part of the loop once. Returns whether there may be more to do at once.

        Planning comes early, because a worker may be idle until it is done. A limited amount of upkeep alternates with
        it, so that neither waits for all of the other.
        """
        is_due = time.monotonic() - self._reconciled_at >= RECONCILE_INTERVAL_S
        if is_due:
            self._reconciled_at = time.monotonic()
            self._do("ending sessions of clients", self.upkeep.end_client_sessions)  # they may stop everything below
        has_begun = self._do("planning and finalizing", lambda: self.attempts.claim(self.heartbeat.id))
        if has_begun:
            self._wake.wait(HEAD_START_S)
        if is_due:
            self._do("waking delayed work", self.upkeep.wake_delayed)
            self._do("rescuing work", self.upkeep.rescue)
            self._do("describing requests", self._make_schemas)
            self.hints.wake()
        has_changed = self._do("changing jobs", self.changes.apply)  # a later deadline before it stops the job
        has_stopped = self._do("stopping jobs", self.upkeep.stop_jobs)
        return has_stopped or has_changed or has_begun

    def _make_schemas(self) -> bool:
        """Describe requests to releases that were published. A first round does so of all that other code described."""
        with self.database.begin() as connection:
            self._has_new_code = make_schemas(connection, anew=self._has_new_code)
        return self._has_new_code

    def _end_of_attempt(self) -> None:
        """Wake the workers for what was planned, and this process for what waits for a thread."""
        self.hints.wake()
        self._wake.set()

    def _do(self, part: str, act: Callable[[], bool]) -> bool:
        """Do one part of the loop. An error of it delays no other part, unless the database is away."""
        if time.monotonic() < self._paused_until.get(part, 0.0):
            return False
        self.watchdog.tick(part)
        failures = metrics.LOOP_FAILURES.labels(part)  # a series from the first round on
        try:
            result = act()
        except Exception as error:
            if is_outage(error):  # DATABASE_ERRORS counts it
                self.watchdog.waits(part, brief(error))
                raise
            failures.inc()
            self.watchdog.failed(part, f"{type(error).__name__}: {brief(error)}")
            self._paused_until[part] = time.monotonic() + RETRY_INTERVAL_S
            log.warning("%s failed (%s: %s); retrying", part, type(error).__name__, brief(error))
            return False
        self.watchdog.succeeded(part)
        return result
