"""Whether a process lives, has started, and is ready for work, as a kubelet asks.

The broker is in none of the answers: without it workers find their work by looking. Nor is Postgres in whether a
process lives: starting it again would not bring the database back.
"""

from collections.abc import Mapping

from services.process.heartbeat import Heartbeat
from services.process.watchdog import Watchdog

SLOW_S = 60.0  # a loop that has not come round for so long takes no new work soon


class Health:
    """Each answer is a list of reasons against; an empty one is a yes."""

    def __init__(
        self, heartbeat: Heartbeat, watchdog: Watchdog, stale_s: float, unloaded: Mapping[str, str] | None = None
    ) -> None:
        """unloaded: releases that are to be loaded at the start and are not yet, and why."""
        self.heartbeat, self.watchdog, self.stale_s = heartbeat, watchdog, stale_s
        self.unloaded = {} if unloaded is None else unloaded
        self.draining = False

    def live(self) -> list[str]:
        """Against being alive: the loop stands still, or the thread of the heartbeat has ended."""
        reasons = []
        if self.watchdog.silent_s > self.watchdog.limit_s:
            reasons.append(f"the loop has not come round for {self.watchdog.silent_s:.0f} s")
        if not self.heartbeat.beating and not self.draining:
            reasons.append("the heartbeat has ended")
        return reasons

    def started(self) -> list[str]:
        """Against having started: not registered, or a release is still to be loaded."""
        reasons = [] if self.heartbeat.beating else ["not registered yet"]
        return reasons + [f"{name} is not loaded: {why}" for name, why in self.unloaded.items()]

    def ready(self) -> list[str]:
        """Against being ready: all of the above, a database that does not answer, a slow loop, the drain."""
        reasons = self.live() + self.started()
        if self.heartbeat.beating and self.heartbeat.silent_s > self.stale_s:
            reasons.append(f"Postgres has not answered for {self.heartbeat.silent_s:.0f} s")
        if self.watchdog.limit_s >= self.watchdog.silent_s > SLOW_S:
            reasons.append(f"the loop has not come round for {self.watchdog.silent_s:.0f} s")
        if self.draining:
            reasons.append("it is told to stop and takes no new work")
        return reasons
