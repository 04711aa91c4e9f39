"""Sends events to webhooks, in threads of its own: an address that hangs delays no other tenant's."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from sqlalchemy import Connection
from sqlalchemy import Engine as Database

from services.database.connections import autocommit, brief
from services.dispatcher.delivery import DeliveryError, deliver
from services.job_queue import webhooks
from services.job_queue.webhooks import TOGETHER, Address, Event
from services.observability import metrics
from services.process.threads import start_thread

log = logging.getLogger("darkroom.dispatcher")

POLL_S = 1.0
CLEANING_S = 600.0
LONGEST_PAUSE_S = 30.0  # of an address that fails; the first is of a second


class FailingAddresses:
    """Addresses whose last attempts failed: they are tried one event at a time, after growing pauses.

    All events of a receiver that is away would otherwise be tried as fast as they fail.
    """

    def __init__(self) -> None:
        self._failed: dict[Address, tuple[int, float]] = {}  # attempts in a row, and when to try again

    def add(self, address: Address, *, has_failed: bool) -> None:
        """Record an attempt."""
        attempts, _ = self._failed.pop(address, (0, 0.0))
        if has_failed:
            pause = min(2.0 ** min(attempts, 9), LONGEST_PAUSE_S)
            self._failed[address] = attempts + 1, time.monotonic() + pause

    def paused(self, under_way: Collection[Address]) -> list[Address]:
        """Return the addresses that are not tried now. under_way: those that are being tried."""
        now = time.monotonic()
        return [one for one, (_, until) in self._failed.items() if until > now or one in under_way]


class WebhookSender:
    """Sends what is due. An event whose sender dies before it is recorded is sent again: at least once."""

    def __init__(self, database: Database) -> None:
        self._database = autocommit(database)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._clean_at = 0.0
        self._failing = FailingAddresses()

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
                event, failure = under_way.pop(sent), sent.result()
                self._failing.add((event.tenant, event.url), has_failed=failure is not None)
                _record(connection, event, failure)
            if time.monotonic() >= self._clean_at:
                may_be_more = webhooks.delete_old(connection)
                self._clean_at = time.monotonic() + (0 if may_be_more else CLEANING_S)
            if len(under_way) == TOGETHER:
                return []
            tenants = Counter(event.tenant for event in under_way.values())
            paused = self._failing.paused({(event.tenant, event.url) for event in under_way.values()})
            return webhooks.claim_events(connection, TOGETHER - len(under_way), tenants, paused)

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
