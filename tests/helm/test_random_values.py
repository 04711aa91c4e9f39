"""Values that nobody has tried together: an API server accepts what they render, or the chart says what contradicts."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_server import immutable_fields, key_of
from tests.support.chart import MATRIX, load_objects, template
from tests.support.chart_values import choices, draw, paths
from tests.support.rendered import find_unconnected, wrong_with, wrong_with_pods
from tests.support.thoroughness import THOROUGH

DRAWS = 400 if THOROUGH else 24
FIELD = r"(\w+(\.\w[\w-]*)*(, \w+(\.\w+)*)*)"
# What the chart says of values that contradict each other: the values, and what is wrong with them.
REFUSAL = re.compile(rf"^{FIELD}: .{{10,}}$")


def render(folder: Path, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Return random values, the objects that they render, and the error."""
    values = draw(seed)
    (folder / f"{seed}.yaml").write_text(json.dumps(values))  # PyYAML would leave "1e3" without quotes
    done = template([*MATRIX["least"], str(folder / f"{seed}.yaml")], check=False)
    return values, load_objects(done.stdout) if done.returncode == 0 else [], done.stderr


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], list[dict[str, Any]], str]]:
    folder = tmp_path_factory.mktemp("values")
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda seed: render(folder, seed), range(DRAWS)))


def test_every_value_can_be_drawn() -> None:
    assert len([choices(*known) for known in paths()]) > 400


def test_random_values_are_rendered_well_or_refused_with_a_reason(
    drawn: list[tuple[dict[str, Any], list[dict[str, Any]], str]],
) -> None:
    accepted = 0
    for values, objects, error in drawn:
        if objects:
            accepted += 1
            wrong = [line for one in objects for line in wrong_with(one)]
            wrong += [*wrong_with_pods(objects), *find_unconnected(objects)]
            assert wrong == [], yaml.safe_dump(values)
        else:
            _, _, reasons = error.partition("\n\n")
            lines = [line for line in reasons.splitlines() if line and not line.startswith("Use --debug")]
            assert lines, (error, values)
            assert [line for line in lines if not REFUSAL.match(line)] == [], (error, values)
    assert accepted >= DRAWS / 4, [error for *_, error in drawn]


def test_no_random_value_changes_what_cannot_be_changed(
    drawn: list[tuple[dict[str, Any], list[dict[str, Any]], str]],
) -> None:
    """Of two releases with different values, objects with the same name have the same immutable fields."""
    found: dict[str, Any] = {}
    for values, objects, _ in drawn:
        if "nameOverride" in values:  # which cannot change; the chart refuses it where it can ask the cluster
            continue
        for one in objects:
            fields = immutable_fields(one)
            if one["kind"] != "Secret":
                assert found.setdefault(key_of(one), fields) == fields, (key_of(one), yaml.safe_dump(values))
