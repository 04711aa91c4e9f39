"""Releases that this worker cannot load because of its own disk; it leaves them to other workers for a while."""

import time
from dataclasses import dataclass

from services.observability import metrics

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 30.0
UNREADY_AFTER = 3  # failures in a row of one release
FORGOTTEN_AFTER_S = 120.0  # after the end of a pause without a request for the release


@dataclass(frozen=True)
class Failures:
    """How often in a row a release could not be loaded, why not the last time, and when to try again."""

    count: int
    reason: str
    until: float  # of time.monotonic


class ReleaseBackoff:
    """The pauses after failures, by the digest of the release; each is twice as long as the one before."""

    def __init__(self) -> None:
        self._failed: dict[str, Failures] = {}  # is replaced, because other threads read it
        metrics.RELEASES_PAUSED.set_function(lambda: len(self._current()))

    def add_failure(self, digest: str, reason: str) -> float:
        """Record that a release could not be loaded. Returns the seconds for which it is not claimed."""
        current = self._current()
        count = current[digest].count + 1 if digest in current else 1
        pause = min(FIRST_PAUSE_S * 2.0 ** (count - 1), LONGEST_PAUSE_S)
        self._failed = {**current, digest: Failures(count, reason, time.monotonic() + pause)}
        metrics.CACHE_FAILURES.inc()
        return pause

    def clear(self, digest: str) -> None:
        """Record that a release was loaded."""
        self._failed = {name: failures for name, failures in self._failed.items() if name != digest}

    def paused(self) -> list[str]:
        """Return the digests of the releases that must not be claimed now."""
        now = time.monotonic()
        return [digest for digest, failures in self._failed.items() if failures.until > now]

    def problems(self) -> list[str]:
        """Return why the worker is not ready: releases that it could not load UNREADY_AFTER times in a row."""
        return [
            f"release {digest[:12]} could not be loaded {failures.count} times: {failures.reason}"
            for digest, failures in self._current().items()
            if failures.count >= UNREADY_AFTER
        ]

    def _current(self) -> dict[str, Failures]:
        """Return the failures, except those of releases that are no longer requested."""
        now = time.monotonic()
        return {
            digest: failures for digest, failures in self._failed.items() if failures.until + FORGOTTEN_AFTER_S > now
        }
