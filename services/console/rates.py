"""The rate limit of a token: requests per second on average, and a burst."""

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable

from fastapi import HTTPException

PER_S, BURST = 50.0, 200.0
MOST_TOKENS = 10_000  # whose counts are kept


class Rates:
    """A bucket for each token: it holds up to `burst` requests and gains `per_s` a second. For one process."""

    def __init__(self, per_s: float = PER_S, burst: float = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_s, self.burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[uuid.UUID, tuple[float, float]] = OrderedDict()  # what is left, and when
        self._lock = threading.Lock()

    def count(self, token: uuid.UUID) -> None:
        """Count a request. Raises HTTPException if the token has made too many."""
        with self._lock:
            now = self._clock()
            left, since = self._buckets.pop(token, (self.burst, now))
            left = min(self.burst, left + (now - since) * self.per_s)
            self._buckets[token] = (max(left - 1, 0) if left >= 1 else left, now)
            if len(self._buckets) > MOST_TOKENS:
                self._buckets.popitem(last=False)
        if left < 1:
            wait_s = -(-(1 - left) // self.per_s)
            raise HTTPException(
                429,
                f"too many requests; permitted: {self.per_s:g} a second and {self.burst:g} at once with one token.",
                {"Retry-After": f"{max(1, wait_s):.0f}"},
            )
