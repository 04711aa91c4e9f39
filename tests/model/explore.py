"""Looks at every state that the rules lead to, the nearest first, and says the shortest way to one that is wrong."""

import struct
from array import array
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import pairwise

from services.job_queue.states import TERMINAL
from tests.model.invariants import find_violation
from tests.model.rules import Rules
from tests.model.state import State, Step


class Codes:
    """States as a few bytes: equal parts of states are kept once, and a state is the numbers of its parts."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._parts: list[Hashable] = []

    def encode(self, state: State) -> bytes:
        """Return the code of a state, which is the same whichever of its processes is which."""
        order = state.order()
        if order != sorted(order):
            state = state.reorder(order)
        parts = (state.job, *state.pieces, *state.processes)
        return struct.pack(f"{len(parts) + 1}I", len(state.pieces), *map(self._number, parts))

    def decode(self, code: bytes) -> State:
        pieces, *numbers = struct.unpack(f"{len(code) // 4}I", code)
        job, *others = (self._parts[number] for number in numbers)
        return State(job, tuple(others[:pieces]), tuple(others[pieces:]))

    def _number(self, part: Hashable) -> int:
        number = self._numbers.get(part)
        if number is None:
            number = self._numbers[part] = len(self._parts)
            self._parts.append(part)
        return number


@dataclass
class Found:
    """What an exploration has found. violation: what is wrong, and the steps that lead there, in words."""

    states: int = 0
    steps: int = 0
    ended: int = 0  # states in which the job has ended
    violation: str | None = None
    path: list[str] = field(default_factory=list)
    is_complete: bool = True


def explore(rules: Rules, limit: int = 10_000_000) -> Found:
    """Explore up to `limit` states, breadth first. Then check that every job ends."""
    codes = Codes()
    begin = codes.encode(rules.start())
    numbers = {begin: 0}
    order, parents = [begin], array("l", [-1])
    sources, targets = array("l"), array("l")  # of steps that happen by themselves
    found = Found()

    def tell(violation: str, number: int, *last: Step) -> Found:
        found.violation, found.states = violation, len(order)
        found.path = _path(rules, codes, order, parents, number, *last)
        return found

    for number, code in enumerate(order):
        state = codes.decode(code)
        found.ended += state.job.state in TERMINAL
        for step, after in rules.steps(state):
            found.steps += 1
            if violation := find_violation(rules, state, step, after):
                return tell(violation, number, step)
            encoded = codes.encode(after)
            target = numbers.setdefault(encoded, len(order))
            if target == len(order):
                if target >= limit:
                    del numbers[encoded]
                    found.is_complete = False
                    continue
                order.append(encoded)
                parents.append(number)
            if step.is_progress:
                sources.append(number)
                targets.append(target)
    found.states = len(order)
    if found.is_complete and (stuck := _find_stuck(codes, order, sources, targets)) is not None:
        return tell("the job never ends", stuck)
    return found


def _find_stuck(codes: Codes, order: list[bytes], sources: array, targets: array) -> int | None:
    """Return the nearest state from which the job may go on for ever, or stop before its end, once nothing fails."""
    left = array("l", bytes(8 * len(order)))  # steps of each state, less those into states that surely end
    into: list[list[int] | None] = [None] * len(order)
    for source, target in zip(sources, targets, strict=True):
        left[source] += 1
        if into[target] is None:
            into[target] = []
        into[target].append(source)
    ready = []
    for number, code in enumerate(order):
        if not left[number]:
            state = codes.decode(code)
            if state.job.state not in TERMINAL or state.pieces:
                return number
            ready.append(number)
    while ready:
        for source in into[ready.pop()] or ():
            left[source] -= 1
            if not left[source]:
                ready.append(source)
    return next((number for number, steps in enumerate(left) if steps), None)


def _path(rules: Rules, codes: Codes, order: list[bytes], parents: array, number: int, *last: Step) -> list[str]:
    """Return the steps to a state in words, and the last one, which leads nowhere."""
    numbers = []
    while number >= 0:
        numbers.append(number)
        number = parents[number]
    path: list[str] = []
    names = list("ABCDEFGH")
    for before, after in pairwise(reversed(numbers)):
        step, state = next(found for found in rules.steps(codes.decode(order[before]))
                           if codes.encode(found[1]) == order[after])  # fmt: skip
        path.append(step.describe(names))
        names = [names[process] for process in state.order()]
    return path + [step.describe(names) for step in last]
