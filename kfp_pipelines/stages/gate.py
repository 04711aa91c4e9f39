"""The gate: rules that the metrics of a release must meet, absolute or relative to production.

    class_accuracy >= 0.9
    frechet_distance <= 1.05 * production
    frechet_distance <= 1.15 * teacher

A rule relative to production compares two evaluations with the same fingerprint: the same images, feature network,
sampling and number of images. It holds if nothing is in production yet. A rule relative to the teacher of a distilled
release compares with the figures of its teacher, which its evaluation has.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.errors import DarkroomError

FINGERPRINT = "fingerprint"
PRODUCTION, TEACHER = "production", "teacher"
RULE = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9_]*)\s*(?P<relation><=|>=)\s*(?P<number>[0-9]+(\.[0-9]+)?)\s*"
    r"(\*\s*(?P<reference>production|teacher))?\s*"
)


class GateError(DarkroomError):
    """A rule cannot be parsed, or metrics cannot be compared; the message says which and what is permitted."""


@dataclass(frozen=True)
class Rule:
    """metric <= number, or metric >= number; with a `reference`, number times its metric."""

    metric: str
    relation: str
    number: float
    reference: str | None  # PRODUCTION or TEACHER

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.number:g}" + (f" * {self.reference}" if self.reference else "")


@dataclass(frozen=True)
class Verdict:
    """Whether a rule held. limit: what the value was compared with; None if nothing is in production yet."""

    rule: Rule
    value: float
    limit: float | None
    held: bool

    def __str__(self) -> str:
        if self.limit is None:
            return f"{self.rule}: {self.value:.4g}; nothing is in production yet"
        return f"{self.rule}: {self.value:.4g} {'is' if self.held else 'is not'} {self.rule.relation} {self.limit:.4g}"


def parse_rules(rules: Sequence[str]) -> list[Rule]:
    """Parse rules. Raises GateError naming the first that is malformed."""
    parsed = []
    for rule in rules:
        match = RULE.fullmatch(rule)
        if match is None:
            raise GateError(
                f"gate: {rule!r} is not a rule; permitted: METRIC <= NUMBER, METRIC >= NUMBER, either followed by "
                "* production or * teacher, such as: frechet_distance <= 1.05 * production"
            )
        parsed.append(Rule(match["metric"], match["relation"], float(match["number"]), match["reference"]))
    return parsed


def judge(rules: Sequence[Rule], scores: Mapping[str, Any], production: Mapping[str, Any] | None) -> list[Verdict]:
    """Return a verdict per rule. production: the metrics of the release in production, None if there is none.

    Raises GateError for a metric that was not measured, and for evaluations with different fingerprints.
    """
    if production is not None and production[FINGERPRINT] != scores[FINGERPRINT]:
        raise GateError(
            "gate: production was evaluated with different settings; the metrics are not comparable "
            f"(fingerprints {production[FINGERPRINT][:12]} and {scores[FINGERPRINT][:12]})"
        )
    verdicts = []
    for rule in rules:
        value = read_metric(scores, rule.metric)
        limit: float | None = rule.number
        if rule.reference == TEACHER:
            limit = rule.number * read_metric(read_teacher(scores), rule.metric)
        elif rule.reference == PRODUCTION:
            limit = None if production is None else rule.number * read_metric(production, rule.metric)
        held = limit is None or (value <= limit if rule.relation == "<=" else value >= limit)
        verdicts.append(Verdict(rule, value, limit, held))
    return verdicts


def read_teacher(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metrics of the teacher of a distilled release. Raises GateError for another release."""
    teacher = scores.get(TEACHER)
    if not isinstance(teacher, Mapping):
        raise GateError(f"gate: {scores.get('release', 'the release')} was not distilled, so it has no teacher; "
                        "permitted: rules without * teacher")  # fmt: skip
    return teacher


def read_metric(scores: Mapping[str, Any], name: str) -> float:
    """Return a metric that is a number. Raises GateError if it was not measured."""
    value = scores.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        numbers = sorted(key for key, score in scores.items() if isinstance(score, int | float))
        raise GateError(f"gate: {name} was not measured; measured: {', '.join(numbers)}")
    return float(value)
