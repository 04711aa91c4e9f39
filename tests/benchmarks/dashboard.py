"""One picture of the dashboard's panels, as a real Prometheus answers them after a real run.

    python -m tests.benchmarks.dashboard docs/results/dashboard.png

Starts a stack with a dispatcher, an exporter and two workers, one of which is killed on the way, gives them jobs for
some minutes, and asks Prometheus (Debian: apt-get install prometheus) every query of the chart's dashboard.
"""

import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import yaml

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tests.support.http import free_port
from tests.support.prometheus import Prometheus, run_prometheus
from tests.support.stack import Stack, fresh_stack

CHART = Path("helm/darkroom/files")
MINUTES = 4.0
STEP_S = 5
COLUMNS = 4


def run_jobs(stack: Stack, minutes: float, together: int) -> None:
    """Submit requests of three kinds, `together` of them every few seconds, and an invalid one now and then."""
    draw, until = random.Random(0), time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        for _ in range(together):
            images, steps = draw.choice([(8, 10), (64, 25), (200, 20)])
            item = {"class_label": draw.randrange(10)}
            stack.submit({"items": [item], "images_per_item": images, "steps": steps, "guidance_scale": 2.0})
        if draw.random() < 0.3:
            stack.submit({"items": [{"class_label": 77}]})
        time.sleep(6)


def query_range(prometheus: Prometheus, expression: str, start: float, stop: float) -> list[dict[str, Any]]:
    """Return the series of a query over the run."""
    query = expression.replace("$namespace", ".*")
    return list(prometheus.ask("query_range", query=query, start=start, end=stop, step=STEP_S)["result"])


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Return the name of a series, as Grafana forms it."""
    for name, value in labels.items():
        pattern = pattern.replace("{{" + name + "}}", value or "-")
    return pattern


def draw(panels: list[dict[str, Any]], prometheus: Prometheus, start: float, stop: float, path: Path) -> list[str]:
    """Draw the panels. Returns the titles of panels without data."""
    rows = math.ceil(len(panels) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(5 * COLUMNS, 2.7 * rows), layout="constrained")
    empty = []
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.set_title(panel["title"], fontsize=9, loc="left")
        series = [
            (legend(target["legendFormat"], one["metric"]), one["values"])
            for target in panel["targets"]
            for one in query_range(prometheus, target["expr"], start, stop)
        ]
        for name, values in series:
            axis.plot([t - start for t, _ in values], [float(value) for _, value in values], label=name, linewidth=1)
        if not series:
            empty.append(panel["title"])
            axis.text(0.5, 0.5, "nothing of the kind happened", ha="center", transform=axis.transAxes, fontsize=8)
        elif len(series) <= 8:
            axis.legend(fontsize=6, frameon=False)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.2)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    return empty


def main(path: Path) -> None:
    """Run the jobs, query Prometheus and draw the panels."""
    ports = {name: free_port() for name in ("dispatcher", "exporter", "worker-a", "worker-b")}
    panels = [one for one in json.loads((CHART / "dashboard.json").read_text())["panels"] if "targets" in one]
    environment = {name: {"DARKROOM_METRICS_PORT": str(number)} for name, number in ports.items()}
    one = {"OMP_NUM_THREADS": "1"}
    rules = yaml.safe_load((CHART / "rules.yaml").read_text())
    start = time.time()
    with (
        fresh_stack() as stack,
        run_prometheus(stack.root / "prometheus", rules, ports, STEP_S) as prometheus,
        stack.process("dispatcher", **environment["dispatcher"]),
        stack.process("exporter", **environment["exporter"]),
        stack.process("worker", **environment["worker-a"], **one),
    ):
        with stack.process("worker", **environment["worker-b"], **one) as lost:
            run_jobs(stack, MINUTES / 3, 8)  # more than can be done
            lost.child.kill()
        with stack.process("worker", **environment["worker-b"], **one):
            run_jobs(stack, MINUTES / 3, 4)
            run_jobs(stack, MINUTES / 3, 1)
        empty = draw(panels, prometheus, start, time.time(), path)
    print(f"{len(panels)} panels, without data: {', '.join(empty) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
