"""The pauses of releases that the disk of a worker cannot hold."""

import pytest

from services.observability import metrics
from services.worker import release_backoff
from services.worker.release_backoff import FORGOTTEN_AFTER_S, LONGEST_PAUSE_S, ReleaseBackoff


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def paused_releases() -> float:
    (family,) = metrics.RELEASES_PAUSED.collect()
    return family.samples[0].value


def test_a_release_that_nobody_asks_for_any_more_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room was made, and its jobs were served elsewhere: nothing would ever try it here again."""
    clock = Clock()
    monkeypatch.setattr(release_backoff, "time", clock)
    backoff = ReleaseBackoff()
    pauses = []
    for _ in range(6):
        pauses.append(backoff.add_failure("a" * 64, "no room"))
        clock.now += pauses[-1] + 1
    assert pauses == [2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert backoff.paused() == []
    assert backoff.problems() == ["release aaaaaaaaaaaa could not be loaded 6 times: no room"]
    assert paused_releases() == 1
    clock.now += FORGOTTEN_AFTER_S
    assert backoff.problems() == []
    assert paused_releases() == 0
    assert backoff.add_failure("a" * 64, "no room") == 2, "it begins again"


def test_a_release_that_was_loaded_is_no_problem() -> None:
    backoff = ReleaseBackoff()
    backoff.add_failure("a" * 64, "no room")
    assert backoff.paused() == ["a" * 64]
    backoff.clear("a" * 64)
    assert (backoff.paused(), paused_releases()) == ([], 0)
