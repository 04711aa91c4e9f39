"""One picture of the dashboard's panels, as a real Prometheus answers them after a real run.

    python -m tests.benchmarks.dashboard docs/results/dashboard.png

Starts a stack with a dispatcher, an exporter and two workers, one of which is killed on the way, gives them jobs for
some minutes, and asks Prometheus (Debian: apt-get install prometheus) every query of the chart's dashboard.
"""

import json
import math
import random
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib
import yaml

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tests.support.http import free_port
from tests.support.stack import Stack, fresh_stack

CHART = Path("helm/darkroom/files")
MINUTES = 4.0
STEP_S = 5
COLUMNS = 4


def write_configuration(folder: Path, targets: dict[str, int]) -> Path:
    """Write the configuration of Prometheus: the four processes and the chart's rules."""
    shutil.copy(CHART / "rules.yaml", folder / "rules.yaml")
    scraped = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"component": name.split("-")[0], "pod": name}}
        for name, port in targets.items()
    ]
    document = {
        "global": {"scrape_interval": f"{STEP_S}s", "evaluation_interval": f"{STEP_S}s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [{"job_name": "darkroom", "static_configs": scraped}],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


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


def query_range(port: int, expression: str, start: float, stop: float) -> list[dict[str, Any]]:
    """Return the series of a query over the run."""
    query = {"query": expression.replace("$namespace", ".*"), "start": start, "end": stop, "step": STEP_S}
    values = urllib.parse.urlencode(query)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_range?{values}", timeout=30) as answer:
        return list(json.load(answer)["data"]["result"])


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Return the name of a series, as Grafana forms it."""
    for name, value in labels.items():
        pattern = pattern.replace("{{" + name + "}}", value or "-")
    return pattern


def draw(panels: list[dict[str, Any]], port: int, start: float, stop: float, path: Path) -> list[str]:
    """Draw the panels. Returns the titles of panels without data."""
    rows = math.ceil(len(panels) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(5 * COLUMNS, 2.7 * rows), layout="constrained")
    empty = []
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.set_title(panel["title"], fontsize=9, loc="left")
        series = [
            (legend(target["legendFormat"], one["metric"]), one["values"])
            for target in panel["targets"]
            for one in query_range(port, target["expr"], start, stop)
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
    with fresh_stack() as stack:
        folder, port = stack.root / "prometheus", free_port()
        folder.mkdir()
        options = {"config.file": write_configuration(folder, ports), "storage.tsdb.path": folder / "data",
                   "web.listen-address": f"127.0.0.1:{port}"}  # fmt: skip
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(["prometheus", *(f"--{k}={v}" for k, v in options.items())], stderr=log)
        environment = {name: {"DARKROOM_METRICS_PORT": str(number)} for name, number in ports.items()}
        one = {"OMP_NUM_THREADS": "1"}
        try:
            start = time.time()
            with (
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
            empty = draw(panels, port, start, time.time(), path)
        finally:
            server.terminate()
            server.wait(20)
    print(f"{len(panels)} panels, without data: {', '.join(empty) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
