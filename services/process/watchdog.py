"""Ends a process whose loop hangs."""

import logging
import math
import os
import threading
import time

log = logging.getLogger("darkroom.watchdog")

EXIT_HUNG = 70  # EX_SOFTWARE of sysexits.h


class Watchdog:
    """Ends the process if its loop has not ticked for `limit_s` seconds: a GPU kernel that hangs never returns."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._ticked = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start to watch: from now on the loop must tick."""
        self.tick()
        self._thread.start()

    @property
    def silent_s(self) -> float:
        """Seconds since the last tick; minus infinity while the watchdog is paused."""
        return time.monotonic() - self._ticked

    def tick(self) -> None:
        """Record that the loop makes progress."""
        self._ticked = time.monotonic()

    def pause(self) -> None:
        """Set no limit until the next tick."""
        self._ticked = math.inf

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.limit_s / 4)):
            if self.silent_s > self.limit_s:
                log.critical("no progress for %.0f s; ending this process", self.limit_s)
                os._exit(EXIT_HUNG)
