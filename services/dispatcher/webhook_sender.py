"""Sends events to webhooks, in threads of its own: an address that hangs delays nothing else."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine as Database

from services.database.connections import autocommit, brief
from services.dispatcher.delivery import DeliveryError, deliver
from services.job_queue import webhooks
from services.job_queue.webhooks import Event
from services.observability import metrics
from services.process.threads import start_thread

log = logging.getLogger("darkroom.dispatcher")

POLL_S = 1.0
THREADS = 8
CLEANING_S = 600.0


class WebhookSender:
    """Sends what is due. An event whose sender dies before it is recorded is sent again: at least once."""

    def __init__(self, database: Database) -> None:
        self._database = autocommit(database)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the threads."""
        self._thread = start_thread(self._run, "webhooks")

    def stop(self) -> None:
        """Return when what is under way has been recorded."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        rounds = 0
        with ThreadPoolExecutor(THREADS, thread_name_prefix="webhook") as threads:
            while not self._stopping.is_set():
                try:
                    with self._database.connect() as connection:
                        due = webhooks.claim_events(connection)
                        if rounds % int(CLEANING_S / POLL_S) == 0:
                            webhooks.delete_delivered(connection)
                    list(threads.map(self._send, due))
                except Exception as error:  # Of any kind: what is not recorded is sent again.
                    metrics.LOOP_FAILURES.labels("webhooks").inc()
                    log.warning("webhooks: %s; retrying", brief(error))
                    due = []
                rounds += 1
                if not due:
                    self._stopping.wait(POLL_S)

    def _send(self, event: Event) -> None:
        try:
            deliver(event)
        except DeliveryError as error:
            with self._database.connect() as connection:
                is_dead = webhooks.record_failure(connection, event, str(error))
            metrics.WEBHOOKS.labels("dead" if is_dead else "failed").inc()
            log.warning("event %s of job %s was not delivered: %s", event.id, event.job_id, error)
        else:
            with self._database.connect() as connection:
                webhooks.record_delivery(connection, event)
            metrics.WEBHOOKS.labels("delivered").inc()
