"""Alerts and recording rules, evaluated by promtool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chart import CHART, ROOT, of_kind, template

RULES = CHART / "files" / "rules.yaml"
CASES = Path(__file__).parent / "rules_test.yaml"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return program


def test_prometheus_accepts_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_not_before(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", str(CASES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test.get("alert_rule_test", ())]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_every_alert_has_a_runbook() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    headings = {line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")}
    for rule in rules():
        if "alert" in rule:
            assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
            assert rule["alert"].lower() in headings


def test_the_prometheus_rule_contains_the_tested_rules() -> None:
    (rendered,) = of_kind("aws", "PrometheusRule")
    assert rendered["spec"]["groups"] == yaml.safe_load(RULES.read_text())["groups"]
    (rendered,) = of_kind("everything", "PrometheusRule")
    rendered_alerts = [rule.get("alert") for group in rendered["spec"]["groups"] for rule in group["rules"]]
    assert set(rendered_alerts) == {rule.get("alert") for rule in rules()} - {"DarkroomWorkerFlapping"}


def test_an_alert_that_does_not_exist_cannot_be_disabled() -> None:
    done = template(["examples/aws.yaml"], "--set", "metrics.rules.disabled={DarkroomTypo}", check=False)
    assert re.search(r'metrics\.rules\.disabled: there is no alert "DarkroomTypo"', done.stderr)
