"""The metrics of real processes, scraped as Prometheus scrapes them."""

import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from services.observability import metrics
from tests.support.http import free_port, scrape_metrics
from tests.support.stack import Stack


def test_a_job_is_seen_in_the_metrics_of_its_processes(stack: Stack) -> None:
    planning, sampling = free_port(), free_port()
    with (
        stack.process("dispatcher", DARKROOM_METRICS_PORT=str(planning)) as dispatcher,
        stack.process("worker", DARKROOM_METRICS_PORT=str(sampling)) as worker,
    ):
        dispatcher.wait_for("serves")
        worker.wait_for("serves queues")
        before, unplanned = scrape_metrics(sampling), scrape_metrics(planning)
        good = stack.submit({"items": [{"class_label": 1}], "images_per_item": 20, "steps": 5, "guidance_scale": 1.0})
        bad = stack.submit({"items": [{"class_label": 77}]})
        assert stack.wait(good).state == "succeeded"
        assert stack.wait(bad).state == "rejected"
        time.sleep(1.5)  # the loops end their turn
        seen, planned = scrape_metrics(sampling), scrape_metrics(planning)
    assert seen["darkroom_step_seconds_count"] >= 5
    assert seen["darkroom_rows"] == 32
    assert seen["darkroom_rows_used_total"] == 20 * 5
    assert seen["darkroom_decode_seconds_count"] >= 1
    assert seen["darkroom_encode_seconds_count,format=png"] == 20
    assert seen["darkroom_upload_seconds_count"] == 20
    assert seen["darkroom_images_total,outcome=stored"] == 20
    assert seen["darkroom_shards_ended_total,end=done"] == 2
    assert seen["darkroom_pick_up_seconds_count,queue=default"] == 1
    assert 0 < seen["darkroom_pick_up_seconds_sum,queue=default"] < 60
    assert seen["darkroom_releases_loaded"] == 1
    assert seen["darkroom_release_load_seconds_count"] == 1
    for gauge in ("images_under_way", "leases_held", "uploads_under_way"):
        assert seen[f"darkroom_{gauge}"] == 0, gauge
    assert planned["darkroom_jobs_planned_total,outcome=planned"] == 1
    assert planned["darkroom_jobs_planned_total,outcome=rejected"] == 1
    assert planned["darkroom_jobs_finished_total,state=succeeded"] == 1
    assert planned["darkroom_broker_up"] == seen["darkroom_broker_up"] == 1
    assert unplanned["darkroom_broker_up"] == 1, "no hint has been sent yet"
    assert not any(name.startswith("darkroom_object_store_errors_total") for name in planned)  # none has failed
    assert seen["darkroom_serves,queue=default"] == 1
    for name in ("images_total,outcome=failed", "images_total,outcome=stored", "shards_ended_total,end=done"):
        assert before[f"darkroom_{name}"] == 0, "an increase is only seen of what there was before"
    for loop in ("claiming", "ending an attempt", "accepting a cancel request", "stopping", "waking", "rescuing"):
        assert unplanned[f"darkroom_set_aside_total,loop={loop}"] == 0
    for name in ("darkroom_rescues_total", "darkroom_silent_attempts"):
        assert name in unplanned, name
        assert name not in seen, f"a worker has no {name}"
    for name in ("darkroom_rows", "darkroom_leases_held", "darkroom_images_under_way"):
        assert name not in planned, f"a dispatcher has no {name}"


def test_no_port_is_opened_by_default(stack: Stack) -> None:
    port = free_port()
    with stack.process("dispatcher") as process:
        process.wait_for("serves")
        with pytest.raises(urllib.error.URLError):
            scrape_metrics(port)


def test_every_metric_follows_the_naming_rules_and_is_documented() -> None:
    """https://prometheus.io/docs/practices/naming/: a prefix, a base unit, and no unbounded label."""
    page = Path("docs/metrics.md").read_text()
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (family,) = metric.describe()
        assert family.name.startswith("darkroom_")
        assert family.documentation.endswith(".")
        assert set(metric._labelnames) <= {
            "end",
            "format",
            "kind",
            "lock",
            "loop",
            "operation",
            "outcome",
            "precision",
            "profile",
            "queue",
            "reason",
            "release",
            "state",
        }
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"| `{name}`" in page, name
