"""The rules of the queue lose no image and settle none twice, and every job ends.

`make test` looks at some ten thousand states and `make model` at more than a million.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.model.explore import explore
from tests.model.mistakes import MISTAKES
from tests.model.rules import Rules
from tests.support.thoroughness import THOROUGH

STATES = int(os.environ.get("DARKROOM_MODEL_STATES", "1000000" if THOROUGH else "15000"))
PAGE = (Path(__file__).parents[2] / "docs/queue_model.md").read_text()


@pytest.mark.timeout(STATES / 500 + 600)
@pytest.mark.parametrize("stages", [1, 2])
def test_no_image_is_lost_or_settled_twice_and_no_zombie_writes(stages: int) -> None:
    """Two images in a shard that may be cut, two processes, one retry."""
    found = explore(Rules(stages=stages), STATES)
    print(found)
    assert found.violation is None, found.path
    assert found.states == STATES


# Every job ends: this is known once all states are found, so these worlds are small.
WORLDS = [
    Rules(images=1, processes=1, max_attempts=1, revisions=1),
    Rules(images=3, has_losses=False, has_stops=False, max_attempts=1, revisions=1),
    Rules(images=2, processes=1, has_errors=False, has_stops=False, max_attempts=1, revisions=1),
    Rules(images=2, has_losses=False, has_stops=False, max_attempts=1, revisions=1, stages=2),
    Rules(images=2, processes=1, has_errors=False, has_stops=False, max_attempts=1, revisions=1, stages=2),
]
if STATES >= 1_000_000:
    WORLDS += [
        Rules(images=1, processes=1, max_attempts=1),
        Rules(images=1, processes=1, max_attempts=1, revisions=1, stages=3),
        Rules(images=4, has_losses=False, max_attempts=1, revisions=1),
    ]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rules", WORLDS, ids=str)
def test_every_job_ends(rules: Rules) -> None:
    """From every state that is reached, whatever happens by itself leads to the job's end, and never in a circle."""
    found = explore(rules)
    print(found)
    assert found.violation is None, found.path
    assert found.is_complete
    assert found.ended


def test_without_a_fault_every_image_is_stored() -> None:
    for rules in (Rules(images=5, processes=3), Rules(images=3, processes=2, stages=3)):
        found = explore(replace(rules, has_losses=False, has_errors=False, has_stops=False))
        assert found.violation is None, found.path


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: type(mistake).__name__)
def test_a_seeded_mistake_is_found_and_its_shortest_path_is_in_the_documentation(mistake: Rules) -> None:
    found = explore(mistake)
    lines = "\n".join(f"{number}. {words}" for number, words in enumerate(found.path, 1))
    print(type(mistake).__doc__, found.violation, lines, sep="\n")
    assert found.violation is not None
    assert lines in PAGE
    assert found.violation in PAGE
