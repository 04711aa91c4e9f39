"""The dashboard and the alerts query metrics that exist."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from services.exporter import GAUGES
from services.observability import metrics
from tests.support.chart import CHART, of_kind

CLIENT = {"process_start_time_seconds", "process_resident_memory_bytes"}  # exported by prometheus_client
CLUSTER = {"kube_job_status_failed"}  # exported by kube-state-metrics
WORD = re.compile(r"\b(?:darkroom|process|kube)[a-z_:]*[a-z]\b")


def exported_names() -> set[str]:
    """Return every metric name that Darkroom exports."""
    names = set(GAUGES) | CLIENT
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            names |= {
                "counter": {f"{family.name}_total"},
                "gauge": {family.name},
                "histogram": {f"{family.name}_{suffix}" for suffix in ("bucket", "count", "sum")},
            }[family.type]
    return names


def dashboard() -> dict[str, Any]:
    return dict(json.loads((CHART / "files" / "dashboard.json").read_text()))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def test_every_queried_metric_exists() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    queried = {name for query in [*queries(), *(rule["expr"] for rule in rules())] for name in WORD.findall(query)}
    assert queried - exported_names() - recorded - CLUSTER == set()


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    queries_and_rules = " ".join([*queries(), *(rule["expr"] for rule in rules())])
    shown = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in WORD.findall(queries_and_rules)}
    missing = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in exported_names()} - shown
    assert missing - {"darkroom_queue_images"} == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_every_query_is_valid_promql() -> None:
    document = {"groups": [{"name": "d", "rules": [{"record": f"q:{i}", "expr": q} for i, q in enumerate(queries())]}]}
    text = yaml.safe_dump(document).replace("q:", "q:n")
    done = subprocess.run(["promtool", "check", "rules", "/dev/stdin"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(numbers) == len(set(numbers))


def test_the_config_map_contains_the_dashboard_unchanged() -> None:
    (config,) = (one for one in of_kind("aws", "ConfigMap") if one["metadata"]["name"].endswith("-dashboard"))
    assert json.loads(config["data"]["darkroom.json"]) == dashboard()
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
