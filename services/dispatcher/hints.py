"""Hints to workers, sent by a thread of its own: a broker that hangs delays nothing else."""

import logging
import threading
import time
from contextlib import suppress

from celery import Celery
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError

from services.database.connections import brief
from services.job_queue.queues import queues_with_work
from services.observability import metrics
from services.process import celery_app

log = logging.getLogger("darkroom.dispatcher")

DELAY_S = 0.02  # by then a worker that Postgres has told has claimed the work, and needs no hint


class HintSender:
    """Wakes one worker of each queue that has work. Without a broker, workers find work by polling.

    Calls of `wake` within DELAY_S, or while hints are being sent, are answered together. Work that is claimed by then
    costs no hint.
    """

    def __init__(self, database: Database, app: Celery) -> None:
        self.database, self.app = database, app
        self._broker_answers: bool | None = None  # not known yet
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._send, name="hints", daemon=True)

    def start(self) -> None:
        """Start the thread. It ends with the process: a hint that is lost is sent again by any dispatcher."""
        self._thread.start()

    def wake(self) -> None:
        """Send hints soon, and return at once."""
        self._wake.set()

    def _send(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(DELAY_S)
            self._wake.clear()
            try:
                with self.database.begin() as connection:
                    queues = queues_with_work(connection)
            except DBAPIError as error:
                log.debug("no hints are sent: %s", brief(error))
                continue
            for queue in queues:
                self._send_hint(queue)
            if not queues and not self._broker_answers:
                self._look()

    def _send_hint(self, queue: str) -> None:
        try:
            celery_app.send_hint(self.app, queue)
        except Exception as error:  # Of any kind: nothing of the service depends on a hint.
            if self._broker_answers is not False:
                log.warning("the broker does not answer (%s); workers find work by polling", brief(error))
            self._broker_answers = False
            metrics.BROKER_UP.set(0)
        else:
            self._record_answer()

    def _look(self) -> None:
        """Look whether the broker answers: without work no hint would tell."""
        with suppress(Exception):  # As above.
            celery_app.check_broker(self.app)
            self._record_answer()

    def _record_answer(self) -> None:
        if not self._broker_answers:
            log.info("the broker answers")
        self._broker_answers = True
        metrics.BROKER_UP.set(1)
