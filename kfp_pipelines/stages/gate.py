"""Whether a release is good enough: rules over its figures, absolute or beside those of the release in production.

    class_accuracy >= 0.9
    frechet_distance <= 1.05 * production

A rule beside production compares two evaluations of one fingerprint (images, network, sampling, count) and no others;
it holds where nothing is in production yet.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.errors import DarkroomError

FINGERPRINT = "fingerprint"
RULE = re.compile(
    r"\s*(?P<figure>[a-z][a-z0-9_]*)\s*(?P<relation><=|>=)\s*(?P<number>[0-9]+(\.[0-9]+)?)\s*"
    r"(?P<beside>\*\s*production)?\s*"
)


class GateError(DarkroomError):
    """A rule that cannot be read, or figures that cannot be compared; the message says which and what would do."""


@dataclass(frozen=True)
class Rule:
    """figure <= number, or >=; of production's figure where `beside`."""

    figure: str
    relation: str
    number: float
    beside: bool

    def __str__(self) -> str:
        return f"{self.figure} {self.relation} {self.number:g}" + (" * production" if self.beside else "")


@dataclass(frozen=True)
class Verdict:
    """How one rule went."""

    rule: Rule
    value: float
    limit: float | None  # None: there is nothing to compare with yet
    held: bool

    def __str__(self) -> str:
        if self.limit is None:
            return f"{self.rule}: {self.value:.4g}; nothing is in production yet"
        return f"{self.rule}: {self.value:.4g} {'is' if self.held else 'is not'} {self.rule.relation} {self.limit:.4g}"


def parse(rules: Sequence[str]) -> list[Rule]:
    """The rules as they are written. Raises GateError naming the first that is none."""
    parsed = []
    for written in rules:
        match = RULE.fullmatch(written)
        if match is None:
            raise GateError(
                f"gate: {written!r} is no rule; permitted: FIGURE <= NUMBER, FIGURE >= NUMBER, either with "
                "* production behind it, such as: frechet_distance <= 1.05 * production"
            )
        parsed.append(Rule(match["figure"], match["relation"], float(match["number"]), match["beside"] is not None))
    return parsed


def judge(rules: Sequence[Rule], scores: Mapping[str, Any], production: Mapping[str, Any] | None) -> list[Verdict]:
    """A verdict a rule. production: its figures, None where nothing is in production.

    Raises GateError for a figure that was not measured, and for evaluations that do not compare.
    """
    if production is not None and production[FINGERPRINT] != scores[FINGERPRINT]:
        raise GateError(
            "gate: production was evaluated otherwise (other images, network, sampling or count), and figures of "
            f"two kinds do not compare: {production[FINGERPRINT][:12]} and {scores[FINGERPRINT][:12]}"
        )
    verdicts = []
    for rule in rules:
        value = figure(scores, rule.figure)
        limit: float | None = rule.number
        if rule.beside:
            limit = None if production is None else rule.number * figure(production, rule.figure)
        held = limit is None or (value <= limit if rule.relation == "<=" else value >= limit)
        verdicts.append(Verdict(rule, value, limit, held))
    return verdicts


def figure(scores: Mapping[str, Any], name: str) -> float:
    """A measured number. Raises GateError."""
    value = scores.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        numbers = sorted(key for key, told in scores.items() if isinstance(told, int | float))
        raise GateError(f"gate: {name} was not measured; there are: {', '.join(numbers)}")
    return float(value)
