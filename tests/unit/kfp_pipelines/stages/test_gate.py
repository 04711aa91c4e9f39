"""Rules over metrics."""

import pytest

from kfp_pipelines.stages.gate import GateError, judge, parse_rules

SCORES = {"fingerprint": "a" * 64, "frechet_distance": 2.0, "class_accuracy": 0.95, "features": "digits-CNN features"}


@pytest.mark.parametrize(
    ("rule", "production", "held"),
    [
        ("frechet_distance <= 2", None, True),
        ("frechet_distance<=1.9", None, False),
        ("class_accuracy >= 0.95", None, True),
        (" class_accuracy  >=  0.951 ", None, False),
        ("frechet_distance <= 1.05 * production", None, True),
        ("frechet_distance <= 1.05 * production", 1.95, True),
        ("frechet_distance <= 1.05*production", 1.9, False),
        ("frechet_distance >= 1 * production", 2.0, True),
    ],
)
def test_a_rule_holds_or_not(rule: str, production: float | None, held: bool) -> None:
    in_production = None if production is None else {"fingerprint": "a" * 64, "frechet_distance": production}
    (verdict,) = judge(parse_rules([rule]), SCORES, in_production)
    assert verdict.held is held
    assert str(verdict.rule) in str(verdict)
    assert ("is not" in str(verdict)) is not held


@pytest.mark.parametrize(("number", "held"), [("1.15", True), ("1.1", False)])
def test_a_student_is_compared_with_its_teacher(number: str, held: bool) -> None:
    scores = {**SCORES, "teacher": {"release": "digits", "frechet_distance": 1.75}}
    (verdict,) = judge(parse_rules([f"frechet_distance <= {number} * teacher"]), scores, None)
    assert verdict.held is held
    assert str(verdict).startswith(f"frechet_distance <= {number} * teacher: 2 is")


def test_a_release_that_was_not_distilled_has_no_teacher() -> None:
    with pytest.raises(GateError, match=r"digits was not distilled, so it has no teacher; permitted: rules without"):
        judge(parse_rules(["frechet_distance <= 1 * teacher"]), {**SCORES, "release": "digits"}, None)


@pytest.mark.parametrize(
    "rule", ["", "frechet_distance", "fd < 2", "fd <= -1", "fd <= 1e3", "fd <= 2 * other", "Fd <= 2"]
)
def test_a_malformed_rule_is_refused_with_the_permitted_forms(rule: str) -> None:
    with pytest.raises(GateError, match=r"is not a rule; permitted: METRIC <= NUMBER"):
        parse_rules([rule])


@pytest.mark.parametrize("name", ["psnr", "features", "fingerprint"])
def test_an_unmeasured_metric_is_refused_with_those_measured(name: str) -> None:
    with pytest.raises(GateError, match=f"{name} was not measured; measured: class_accuracy, frechet_distance"):
        judge(parse_rules([f"{name} <= 1"]), SCORES, None)


def test_evaluations_with_different_fingerprints_are_refused() -> None:
    with pytest.raises(
        GateError, match=r"the metrics are not comparable \(fingerprints bbbbbbbbbbbb and aaaaaaaaaaaa\)"
    ):
        judge(parse_rules(["frechet_distance <= 1 * production"]), SCORES, {**SCORES, "fingerprint": "b" * 64})
