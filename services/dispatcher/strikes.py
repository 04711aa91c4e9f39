"""Rows that are handled together, where one that cannot be handled delays no other."""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from services.database.connections import brief
from services.database.faults import is_fault_of_a_row
from services.job_queue.leases import storable
from services.observability import metrics

log = logging.getLogger("darkroom.dispatcher")

STRIKES = 3  # failures of a row in a row, after which it is set aside
Row = TypeVar("Row", bound=Hashable)


class Strikes(Generic[Row]):
    """Counts how often each row of a loop could not be handled, and sets it aside after the third time.

    loop: names the loop in logs and in the metric.
    set_aside: ends a row for a reason, without reading the values that it cannot handle.
    """

    def __init__(self, loop: str, set_aside: Callable[[Row, str], object]) -> None:
        self.loop, self.set_aside = loop, set_aside
        self.given_up: set[Row] = set()  # rows that cannot even be set aside
        self._failures: dict[Row, int] = {}
        self._set_aside_total = metrics.SET_ASIDE.labels(loop)

    def handle(self, rows: Sequence[Row], handle: Callable[[Sequence[Row]], object]) -> None:
        """Call `handle` with all rows. If one of them makes that fail, call it with each half, and so on.

        Each call of `handle` is a transaction of its own. Raises an error of which no row is the cause.
        """
        rows = [row for row in rows if row not in self.given_up]
        if not rows:
            return
        try:
            handle(rows)
        except Exception as error:
            if not is_fault_of_a_row(error):
                raise
            if len(rows) == 1:
                self.strike(rows[0], error)
            else:
                middle = len(rows) // 2
                self.handle(rows[:middle], handle)
                self.handle(rows[middle:], handle)
        else:
            for row in rows:
                self._failures.pop(row, None)

    def strike(self, row: Row, error: Exception) -> None:
        """Count that a row could not be handled."""
        cause = f"{type(error).__name__}: {storable(brief(error))}"
        self._failures[row] = self._failures.get(row, 0) + 1
        if self._failures[row] < STRIKES:
            log.warning("%s: %s cannot be processed; retrying: %s", self.loop, row, cause)
        else:
            self.end(row, f"set aside by the service: {self.loop} failed {STRIKES} times ({cause})")

    def end(self, row: Row, reason: str) -> None:
        """Set a row aside now."""
        try:
            self.set_aside(row, reason)
        except Exception as error:
            if not is_fault_of_a_row(error):
                raise
            log.error("%s: %s cannot even be set aside: %s; it is skipped", self.loop, row, brief(error))
            self.given_up.add(row)
        else:
            log.error("%s %s: %s", self.loop, row, reason)
        self._set_aside_total.inc()
        self._failures.pop(row, None)
