"""The memory of large requests: parsed, one of 4 MiB takes over 100 MiB, so they are parsed one after another."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SMALL_BYTES = 64 * 2**10  # that a request and its plan may have together without being counted
MAX_BYTES = 4 * 2**20  # of those that are counted; a larger one is parsed alone
TICK_S = 1.0


class ParsingMemory:
    """Bounds the bytes of requests and plans that threads hold in parsed form. They are let in in their order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = 0

    @contextmanager
    def hold(self, size: int, tick: Callable[[], None]) -> Iterator[None]:
        """Hold memory for JSON of `size` bytes; wait until there is room. tick: called each second of waiting."""
        if size <= SMALL_BYTES:
            yield
            return
        self._acquire(size, tick)
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    def _acquire(self, size: int, tick: Callable[[], None]) -> None:
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or (self._held and self._held + size > MAX_BYTES):
                    self._changed.wait(TICK_S)
                    tick()
                self._held += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
