"""Ends a process whose loop has stopped."""

import logging
import math
import os
import threading
import time

log = logging.getLogger("darkroom.watchdog")

EXIT_HUNG = 70  # EX_SOFTWARE of sysexits.h


class Watchdog:
    """Ends the process when its loop has not ticked for `limit_s`: a kernel that hangs never returns."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._ticked = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """From now on the loop must tick."""
        self.tick()
        self._thread.start()

    @property
    def silent_s(self) -> float:
        """Seconds since the loop last came round; below 0 while it may take as long as it likes."""
        return time.monotonic() - self._ticked

    def tick(self) -> None:
        """The loop goes on."""
        self._ticked = time.monotonic()

    def pause(self) -> None:
        """Until the next tick it may take as long as it likes."""
        self._ticked = math.inf

    def stop(self) -> None:
        """The loop may end."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.limit_s / 4)):
            if self.silent_s > self.limit_s:
                log.critical("nothing has moved for %.0f s; ending this process", self.limit_s)
                os._exit(EXIT_HUNG)
