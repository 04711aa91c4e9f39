"""Sends events to webhooks, in threads of its own: an address that hangs delays no other tenant's."""

import logging
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from sqlalchemy import Connection
from sqlalchemy import Engine as Database

from services.database.connections import autocommit, brief
from services.dispatcher.delivery import DeliveryError, deliver
from services.job_queue import webhooks
from services.job_queue.webhooks import TOGETHER, Event
from services.observability import metrics
from services.process.threads import start_thread

log = logging.getLogger("darkroom.dispatcher")

POLL_S = 1.0
CLEANING_S = 600.0


class WebhookSender:
    """Sends what is due. An event whose sender dies before it is recorded is sent again: at least once."""

    def __init__(self, database: Database) -> None:
        self._database = autocommit(database)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._clean_at = 0.0

    def start(self) -> None:
        """Start the threads."""
        self._thread = start_thread(self._run, "webhooks")

    def stop(self) -> None:
        """Return when what is under way has been recorded."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        under_way: dict[Future[str | None], Event] = {}
        with ThreadPoolExecutor(TOGETHER, thread_name_prefix="webhook") as threads:
            while not self._stopping.is_set():
                try:
                    due = self._do_round(under_way)
                except Exception as error:  # Of any kind: what is not recorded is sent again.
                    metrics.LOOP_FAILURES.labels("webhooks").inc()
                    log.warning("webhooks: %s; retrying", brief(error))
                    self._stopping.wait(POLL_S)
                    continue
                under_way |= {threads.submit(_send, event): event for event in due}
                if under_way:  # Those of other tenants do not wait for all of them: a place that is free is taken.
                    wait(under_way, POLL_S, FIRST_COMPLETED)
                else:
                    self._stopping.wait(POLL_S)
        self._record_rest(under_way)

    def _do_round(self, under_way: dict[Future[str | None], Event]) -> list[Event]:
        """Record what has been sent, and return what is to be sent in the places that are free."""
        with self._database.connect() as connection:
            for sent in [future for future in under_way if future.done()]:
                _record(connection, under_way.pop(sent), sent.result())
            if time.monotonic() >= self._clean_at:
                may_be_more = webhooks.delete_old(connection)
                self._clean_at = time.monotonic() + (0 if may_be_more else CLEANING_S)
            if len(under_way) == TOGETHER:
                return []
            tenants = Counter(event.tenant for event in under_way.values())
            return webhooks.claim_events(connection, TOGETHER - len(under_way), tenants)

    def _record_rest(self, under_way: dict[Future[str | None], Event]) -> None:
        try:
            with self._database.connect() as connection:
                for sent, event in under_way.items():
                    _record(connection, event, sent.result())
        except Exception as error:  # They are sent again.
            log.warning("webhooks: %s", brief(error))


def _send(event: Event) -> str | None:
    """Send an event. Returns why it did not arrive, else None."""
    try:
        deliver(event)
    except DeliveryError as error:
        return str(error)
    except Exception as error:  # Of any kind: the attempt counts, so that it has an end.
        log.exception("event %s of job %s could not be sent", event.id, event.job_id)
        return f"url: {type(error).__name__}: {error}"
    return None


def _record(connection: Connection, event: Event, failure: str | None) -> None:
    if failure is None:
        webhooks.record_delivery(connection, event)
        metrics.WEBHOOKS.labels("delivered").inc()
        return
    is_dead = webhooks.record_failure(connection, event, failure)
    metrics.WEBHOOKS.labels("dead" if is_dead else "failed").inc()
    log.warning("event %s of job %s was not delivered: %s", event.id, event.job_id, failure)
