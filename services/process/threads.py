"""Threads whose end ends the process."""

import logging
import os
import threading
from collections.abc import Callable

from services.process.watchdog import EXIT_HUNG

log = logging.getLogger("darkroom.process")


def start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread. If `target` raises, the process ends at once, so that another one takes over its work."""

    def run() -> None:
        try:
            target()
        except BaseException:
            log.critical("the thread %s failed; this process exits", name, exc_info=True)
            logging.shutdown()
            os._exit(EXIT_HUNG)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
