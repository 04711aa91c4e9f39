"""How much of large requests the threads of a dispatcher hold at the same time."""

import threading
import time
from collections.abc import Callable

import pytest

from services.dispatcher import parsing_memory
from services.dispatcher.parsing_memory import MAX_BYTES, SMALL_BYTES, ParsingMemory


def wait_until(holder: "Holder", check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline, holder
        time.sleep(0.001)


class Holder(threading.Thread):
    """A thread that holds memory until it is told to end."""

    def __init__(self, memory: ParsingMemory, size: int) -> None:
        super().__init__(daemon=True)
        self.memory, self.size = memory, size
        self.ticks = 0
        self.has_it, self.ends = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.memory.hold(self.size, self.tick):
            self.has_it.set()
            self.ends.wait(30)

    def tick(self) -> None:
        self.ticks += 1


def test_large_requests_are_let_in_one_after_another_in_their_order_and_small_ones_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parsing_memory, "TICK_S", 0.01)
    memory = ParsingMemory()
    first = Holder(memory, 3 * MAX_BYTES)  # more than there is, so alone
    assert first.has_it.wait(30)
    second = Holder(memory, MAX_BYTES)
    wait_until(second, lambda: second.ticks)
    third = Holder(memory, SMALL_BYTES + 1)  # It would fit beside the first one no more than the second does.
    wait_until(third, lambda: third.ticks)
    small = Holder(memory, SMALL_BYTES)
    assert small.has_it.wait(30)
    first.ends.set()
    assert second.has_it.wait(30)
    ticks = third.ticks
    wait_until(third, lambda: third.ticks > ticks)
    assert not third.has_it.is_set()
    second.ends.set()
    assert third.has_it.wait(30)
    fourth = Holder(memory, MAX_BYTES - SMALL_BYTES - 1)  # Together they fit.
    assert fourth.has_it.wait(30)
    for holder in (third, fourth, small):
        holder.ends.set()
        holder.join(30)


def test_a_wait_that_is_stopped_leaves_its_place_to_the_next() -> None:
    memory = ParsingMemory()
    first = Holder(memory, MAX_BYTES)
    assert first.has_it.wait(30)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), memory.hold(MAX_BYTES, stop):
        pass
    last = Holder(memory, MAX_BYTES)
    first.ends.set()
    assert last.has_it.wait(30)
    last.ends.set()
