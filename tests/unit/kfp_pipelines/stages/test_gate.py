"""Rules over figures."""

import pytest

from kfp_pipelines.stages.gate import GateError, judge, parse

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
    beside = None if production is None else {"fingerprint": "a" * 64, "frechet_distance": production}
    (verdict,) = judge(parse([rule]), SCORES, beside)
    assert verdict.held is held
    assert str(verdict.rule) in str(verdict)
    assert ("is not" in str(verdict)) is not held


@pytest.mark.parametrize(
    "rule", ["", "frechet_distance", "fd < 2", "fd <= -1", "fd <= 1e3", "fd <= 2 * other", "Fd <= 2"]
)
def test_what_is_no_rule_says_what_is(rule: str) -> None:
    with pytest.raises(GateError, match=r"is no rule; permitted: FIGURE <= NUMBER"):
        parse([rule])


@pytest.mark.parametrize("name", ["psnr", "features", "fingerprint"])
def test_a_figure_that_was_not_measured_names_those_that_were(name: str) -> None:
    with pytest.raises(GateError, match=f"{name} was not measured; there are: class_accuracy, frechet_distance"):
        judge(parse([f"{name} <= 1"]), SCORES, None)


def test_evaluations_of_another_kind_are_refused() -> None:
    with pytest.raises(GateError, match="figures of two kinds do not compare: bbbbbbbbbbbb and aaaaaaaaaaaa"):
        judge(parse(["frechet_distance <= 1 * production"]), SCORES, {**SCORES, "fingerprint": "b" * 64})
