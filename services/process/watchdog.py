"""Ends a process that makes no progress."""

import logging
import math
import os
import threading
import time
from dataclasses import dataclass

log = logging.getLogger("darkroom.watchdog")

EXIT_HUNG = 70  # EX_SOFTWARE of sysexits.h
FAILURES = 3  # in a row, after which a part of the loop counts as failing


@dataclass
class Failing:
    """A part of a loop that fails each time, since when, and its last error."""

    since: float
    times: int = 0
    error: str = ""


class Watchdog:
    """Ends the process if its loop makes no progress for `limit_s` seconds: a GPU kernel that hangs never returns.

    A running loop may have parts that fail repeatedly, such as one statement. `failed` and `succeeded` record this.
    A part that has only failed for `limit_s` seconds ends the process as well.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.activity = "its first round"
        self._ticked = time.monotonic()
        self._failing: dict[str, Failing] = {}
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

    def tick(self, activity: str | None = None) -> None:
        """Record that the loop makes progress, and what it begins now."""
        self._ticked = time.monotonic()
        if activity is not None:
            self.activity = activity

    def failed(self, part: str, error: str) -> None:
        """Record that a part of the loop has failed."""
        failing = self._failing.setdefault(part, Failing(time.monotonic()))
        failing.times, failing.error = failing.times + 1, error

    def waits(self, part: str, error: str) -> None:
        """Record that a part has failed because something else is away, which does not end this process.

        Parts that failed before have not been tried meanwhile, so their time begins anew as well.
        """
        self.failed(part, error)
        for failing in self._failing.copy().values():
            failing.since = time.monotonic()

    def succeeded(self, part: str) -> None:
        """Record that a part of the loop works."""
        self._failing.pop(part, None)

    def failures(self) -> list[str]:
        """Return a line for each part that has failed several times in a row."""
        return [
            f"{part} has failed {failing.times} times in a row: {failing.error}"
            for part, failing in self._failing.copy().items()
            if failing.times >= FAILURES
        ]

    def pause(self) -> None:
        """Set no limit until the next tick."""
        self._ticked = math.inf

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.limit_s / 4)):
            now = time.monotonic()
            reasons = [
                f"{part} has only failed for {self.limit_s:.0f} s ({failing.error})"
                for part, failing in self._failing.copy().items()
                if now - failing.since > self.limit_s
            ]
            if self.silent_s > self.limit_s:
                reasons.append(f"no progress for {self.limit_s:.0f} s in {self.activity}")
            if reasons:
                log.critical("%s; ending this process", "; ".join(reasons))
                os._exit(EXIT_HUNG)
