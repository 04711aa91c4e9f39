"""A thread that wakes the process when Postgres announces work. Polling and hints find the work as well."""

import logging
import threading
from collections.abc import Callable, Sequence

from sqlalchemy import Engine as Database

from services.database.connections import brief
from services.job_queue import notifications

log = logging.getLogger("darkroom.listener")

RETRY_INTERVAL_S = 2.0


class Listener:
    """Calls `wake` for each announcement. It has a connection of its own.

    queues: those whose shards are announced; None for work of dispatchers. instead: how work is found where no
    notification arrives, for the log.
    """

    def __init__(
        self, database: Database, wake: Callable[[], None], *, instead: str, queues: Sequence[str] | None = None
    ) -> None:
        self.database, self.queues, self._wake, self._instead = database, queues, wake, instead
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread. It ends with the process."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def stop(self) -> None:
        """Listen no more. This returns at once."""
        self._stopped.set()

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                for is_announced in notifications.listen(self.database.url, self.queues):
                    if is_announced:
                        self._wake()
                    if self._stopped.is_set():
                        return
            except notifications.NotDelivered as error:
                log.warning("%s; new work is found by %s instead", error, self._instead)
                return
            except Exception as error:  # Of any kind: the work is found without notifications as well.
                log.debug("notifications: %s", brief(error))
                self._stopped.wait(RETRY_INTERVAL_S)
            else:
                return
