"""A real Prometheus (Debian: apt-get install prometheus) that scrapes processes and evaluates the chart's rules."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.http import free_port

PROGRAM = shutil.which("prometheus")
MISSING = "prometheus is not installed (Debian: apt-get install prometheus)"


class Prometheus:
    """A running Prometheus on a port of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.port = port

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **query: Any) -> Any:
        """Return the data of an answer of its HTTP API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def alerts(self) -> dict[str, str]:
        """Return the state of each alert that is pending or firing."""
        states: dict[str, str] = {}
        for alert in self.ask("alerts")["alerts"]:
            name = alert["labels"]["alertname"]
            if states.get(name) != "firing":
                states[name] = alert["state"]
        return states


@contextmanager
def run_prometheus(
    folder: Path, rules: Mapping[str, Any], targets: Mapping[str, int], step_s: int
) -> Iterator[Prometheus]:
    """Run Prometheus, with its files in `folder`, until the context ends.

    targets: port of each process by its name, which begins with its component. step_s: seconds between two scrapes, and
    between two evaluations of the rules.
    """
    assert PROGRAM is not None, MISSING
    folder.mkdir()
    (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
    scraped = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"component": name.split("-")[0], "pod": name}}
        for name, port in targets.items()
    ]
    document = {
        "global": {
            "scrape_interval": f"{step_s}s",
            "scrape_timeout": f"{step_s}s",
            "evaluation_interval": f"{step_s}s",
        },
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [{"job_name": "darkroom", "static_configs": scraped}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(document))
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yaml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([PROGRAM, *(f"--{name}={value}" for name, value in options.items())], stderr=log)
    try:
        running = Prometheus(port)
        deadline = time.monotonic() + 60
        while not running.is_ready():
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield running
    finally:
        server.terminate()
        server.wait(20)
