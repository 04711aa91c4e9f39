"""Each alert of the chart fires in a real Prometheus when its cause happens, and ends after its runbook's remedy.

All durations in the rules are a sixtieth of what they are in the chart. DarkroomMigrationFailed is not among them: it
watches a Job of Kubernetes.
"""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import yaml

from tests.chaos.causes import CAUSES, Service
from tests.support.chart import CHART
from tests.support.prometheus import MISSING, PROGRAM, Prometheus, run_prometheus
from tests.support.stack import fresh_stack
from tests.support.tenants import end_open_jobs
from tests.support.thoroughness import THOROUGH

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason=MISSING),
    pytest.mark.skipif(not THOROUGH, reason="`make chaos` causes each alert"),
    pytest.mark.timeout(900),
]

HASTE = 60
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
STEP_S = 1
PATIENCE_S = 300
WATCHES_KUBERNETES = {"DarkroomMigrationFailed"}


def shorten(match: re.Match[str]) -> str:
    """Return a duration divided by HASTE, of at least the time between two evaluations."""
    return f"{max(STEP_S, int(match[1]) * SECONDS[match[2]] // HASTE)}s"


def hasten(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule all of whose durations, ages and counts within a duration are divided by HASTE."""
    expression = re.sub(r"(?<=[\[:])(\d+)([smhd])(?=[]:])", shorten, rule["expr"])
    ages = r"(_seconds(?:{[^}]*})?\) > )(\d+)"
    counts = r"(increase\([a-z_]+(?:{[^}]*})?\[\d+s\]\)\) > )(\d+)(?! *\* |\.)"
    for pattern in (ages, counts):
        expression = re.sub(pattern, lambda match: f"{match[1]}{int(match[2]) / HASTE}", expression)
    changed = {"for": re.sub(r"(\d+)([smhd])", shorten, rule["for"])} if "for" in rule else {}
    return {**rule, **changed, "expr": expression}


@pytest.fixture(scope="module")
def chart_rules() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    return document


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with fresh_stack() as stack, closing(Service(stack)) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(service: Service, chart_rules: dict[str, Any]) -> Iterator[Prometheus]:
    groups = [{**group, "rules": [hasten(rule) for rule in group["rules"]]} for group in chart_rules["groups"]]
    folder = service.stack.root / "prometheus"
    with run_prometheus(folder, {"groups": groups}, service.ports, STEP_S) as running:
        yield running


def test_every_alert_has_a_cause(chart_rules: dict[str, Any]) -> None:
    alerts = {rule["alert"] for group in chart_rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert set(CAUSES) | WATCHES_KUBERNETES == alerts


@pytest.mark.parametrize("alert", CAUSES)
def test_an_alert_fires_and_ends(alert: str, service: Service, prometheus: Prometheus) -> None:
    wait_for(prometheus, alert, None)
    wait_for_scrapes(prometheus)
    began = time.monotonic()
    with CAUSES[alert](service) as meanwhile:
        while prometheus.alerts().get(alert) != "firing":
            assert time.monotonic() - began < PATIENCE_S, prometheus.alerts()
            if meanwhile is not None:
                meanwhile()
            time.sleep(STEP_S)
        others = sorted(name for name, state in prometheus.alerts().items() if state == "firing" and name != alert)
        print(f"{alert} after {time.monotonic() - began:.0f} s; beside it: {', '.join(others) or 'none'}")
    end_open_jobs(service.stack)
    wait_for(prometheus, alert, None)
    service.client.assert_served()


def wait_for(prometheus: Prometheus, alert: str, state: str | None) -> None:
    """Wait until an alert is in a state; None: it does not fire."""
    began = time.monotonic()
    while prometheus.alerts().get(alert) != state:
        assert time.monotonic() - began < PATIENCE_S, prometheus.alerts()
        time.sleep(STEP_S)


def wait_for_scrapes(prometheus: Prometheus) -> None:
    """Wait until each process has been scraped a few times: there is no increase from nothing."""
    began, query = time.monotonic(), f"min_over_time(up[{5 * STEP_S}s]) == 1"
    while len(prometheus.ask("query", query=query)["result"]) < len(Service.PARTS):
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(STEP_S)
