"""Health checks as a kubelet asks for them: is the process alive, has it started, is it ready for work?

No check asks for the broker, because workers find work by polling without it. Liveness does not ask for Postgres,
because a restart of this process would not bring the database back.
"""

from collections.abc import Callable, Mapping

from services.process.heartbeat import Heartbeat
from services.process.watchdog import Watchdog

SLOW_S = 60.0  # a loop without progress for longer is not ready for more work


class Health:
    """Each check returns the reasons against it: an empty list means yes."""

    def __init__(
        self,
        heartbeat: Heartbeat,
        watchdog: Watchdog,
        stale_s: float,
        unloaded: Mapping[str, str] | None = None,
        problems: Callable[[], list[str]] = list,
    ) -> None:
        """unloaded: releases that must be loaded before the process has started, and why they are not loaded yet.

        problems: returns other reasons why the process is not ready.
        """
        self.heartbeat, self.watchdog, self.stale_s = heartbeat, watchdog, stale_s
        self.unloaded = {} if unloaded is None else unloaded
        self.problems = problems
        self.draining = False

    def live(self) -> list[str]:
        """Return why the process must be restarted: its loop hangs, or its heartbeat has stopped."""
        reasons = []
        if self.watchdog.silent_s > self.watchdog.limit_s:
            reasons.append(self._silence())
        if not self.heartbeat.beating and not self.draining:
            reasons.append("the heartbeat has stopped")
        return reasons

    def started(self) -> list[str]:
        """Return why the process has not started: it is not registered, or a release is not loaded yet."""
        reasons = [] if self.heartbeat.beating else ["the process is not registered yet"]
        return reasons + [f"{name} is not loaded: {why}" for name, why in self.unloaded.items()]

    def ready(self) -> list[str]:
        """Return why the process takes no work: any of the above, no database, a failing loop, its disk, the drain."""
        reasons = self.live() + self.started() + self.problems()
        if self.heartbeat.beating and self.heartbeat.silent_s > self.stale_s:
            reasons.append(f"Postgres has not answered for {self.heartbeat.silent_s:.0f} s")
        if self.watchdog.limit_s >= self.watchdog.silent_s > SLOW_S:
            reasons.append(self._silence())
        reasons += self.watchdog.failures()
        if self.draining:
            reasons.append("the process is draining and takes no new work")
        return reasons

    def _silence(self) -> str:
        return f"the loop has made no progress for {self.watchdog.silent_s:.0f} s in {self.watchdog.activity}"
