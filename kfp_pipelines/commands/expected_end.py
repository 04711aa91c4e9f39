"""Estimates when a run will end, from the expected and the measured durations of its tasks."""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta

UNKNOWN = 0.25  # relative error of seconds that nothing has confirmed: what a busy machine was measured to change
LEAST_ERROR = 0.05  # relative error of seconds that were measured
CAUTION = 0.1  # of all that is expected: how much must have been measured to count as much as the expectation
SKIPPED = 0.2  # a task that takes less of its time was cached or resumed, and says nothing of the machine
MOVED = 0.1  # share of the rest by which the end must move to be announced again


class ExpectedEnd:
    """When all tasks will have ended: the task that runs at its own pace, the later ones at the pace of the ended.

    expected: seconds that each task should take, in the order in which they run.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.waiting = dict(expected)
        self.caution = CAUTION * sum(expected.values())
        self.measured = self.planned = 0.0  # seconds of the tasks that ended
        self.task_began = self.task_ends = time.monotonic()
        self.task_seconds = 0.0  # that the task that runs should take
        self.seen: list[tuple[int, float]] = []  # steps of the task that runs, and when they were taken
        self.announced: float | None = None  # the end that was announced, as time.monotonic()

    @property
    def pace(self) -> float:
        """How many times longer tasks take than expected. Cautious: near 1 while little has been measured."""
        return (self.measured + self.caution) / (self.planned + self.caution) if self.caution else 1.0

    def begin(self, task: str) -> None:
        """Note that a task began, and that the one before ended. Earlier ones that never began are cached."""
        self.end_task()
        now = time.monotonic()
        if task in self.waiting:
            for earlier in list(self.waiting)[: list(self.waiting).index(task)]:
                del self.waiting[earlier]
        self.task_seconds = self.waiting.pop(task, 0.0)
        self.task_began, self.task_ends, self.seen = now, now + self.task_seconds * self.pace, []

    def end_task(self) -> None:
        """Note that the task that runs ended."""
        took, self.task_began = time.monotonic() - self.task_began, time.monotonic()
        if self.task_seconds and took > SKIPPED * self.task_seconds:
            self.measured += took
            self.planned += self.task_seconds
        self.task_seconds, self.task_ends, self.seen = 0.0, time.monotonic(), []

    def advance(self, step: int, steps: int) -> None:
        """Note how far the task is: the rest takes as long for each step as those that were seen."""
        now = time.monotonic()
        if self.seen and step <= self.seen[0][0]:
            self.seen = []
        self.seen.append((step, now))
        if len(self.seen) > 1:
            self.task_ends = now + self._step_seconds(0) * (steps - step)

    def seconds(self) -> float:
        """Return the seconds until the end."""
        return self._task_rest() + self.pace * sum(self.waiting.values())

    def margin(self) -> float:
        """Return by how many seconds the end may be earlier or later.

        Steps are as uncertain as the latest ones differ from all of the task; later tasks as much as those that ended
        differ from what was expected of them.
        """
        of_task = UNKNOWN
        if len(self.seen) > 2:
            recent = self._step_seconds(-max(2, len(self.seen) // 4))
            of_task = max(LEAST_ERROR, abs(recent / self._step_seconds(0) - 1))
        confirmed = self.planned / (self.planned + self.caution) if self.caution else 0.0
        of_others = UNKNOWN * (1 - confirmed) + confirmed * max(LEAST_ERROR, abs(self.pace - 1) / 2)
        return of_task * self._task_rest() + of_others * self.pace * sum(self.waiting.values())

    def has_moved(self) -> bool:
        """Return whether the end is no longer the one that was announced: by a tenth of the rest, and its margin."""
        if self.announced is None or not self.waiting:
            return False
        shift = abs(time.monotonic() + self.seconds() - self.announced)
        return shift > max(60.0, MOVED * self.seconds(), self.margin() / 2)

    def announce(self) -> str:
        """Return the end in words; it counts as announced."""
        self.announced = time.monotonic() + self.seconds()
        return (
            f"ends about {datetime.now() + timedelta(seconds=self.seconds()):%H:%M}, {describe_margin(self.margin())}"
        )

    def __str__(self) -> str:
        if not self.waiting:
            return ""
        return f"ends about {datetime.now() + timedelta(seconds=self.seconds()):%H:%M:%S}"

    def _task_rest(self) -> float:
        return max(0.0, self.task_ends - time.monotonic())

    def _step_seconds(self, start: int) -> float:
        """Return the mean seconds of a step from the `start`-th of the seen ones to the last."""
        (first, began), (last, now) = self.seen[start], self.seen[-1]
        return (now - began) / max(1, last - first)


def describe_margin(seconds: float) -> str:
    """Return an uncertainty in words."""
    if seconds < 60:
        return "give or take a minute"
    return f"give or take {seconds / 60:.0f} minutes" if seconds >= 90 else "give or take a minute"
