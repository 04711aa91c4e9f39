"""Waits until Postgres has a connection for a process that starts."""

import logging
import time

from sqlalchemy import Engine as Database
from sqlalchemy.exc import OperationalError

from services.database.connections import is_full, unreachable

log = logging.getLogger("darkroom.start")

RETRY_INTERVAL_S = 2.0
REPORT_INTERVAL_S = 60.0


def wait_for_connection(database: Database) -> None:
    """Return once the server has a connection for this process.

    While all are in use it waits, because a restart would only back off longer. Any other error is left to what
    follows.
    """
    reported_at, began = 0.0, time.monotonic()
    while True:
        try:
            with database.connect():
                break
        except OperationalError as error:
            if not is_full(error):
                return
            if not reported_at or time.monotonic() - reported_at >= REPORT_INTERVAL_S:
                log.warning("%s Waiting for a free connection.", unreachable(database, error))
                reported_at = time.monotonic()
        time.sleep(RETRY_INTERVAL_S)
    if reported_at:
        log.info("Postgres has a free connection again, after %.0f s", time.monotonic() - began)
