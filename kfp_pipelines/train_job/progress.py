"""Reports how far a training is to Kubeflow Trainer, which shows it in the status of the TrainJob.

A Trainer of 2.2 or newer with the feature `TrainJobStatus` says in the environment of its pods where it listens.
"""

import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

INTERVAL_S = 15.0
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class StatusServer:
    """Where the Trainer listens: its address, the certificate of its authority, and the file of this pod's token."""

    url: str
    ca_cert: str | None
    token: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "StatusServer | None":
        """Return the server that the environment names, or None."""
        url, token = (environment.get(f"KUBEFLOW_TRAINER_SERVER_{name}") for name in ("URL", "TOKEN"))
        if not url or not token:
            return None
        return cls(url, environment.get("KUBEFLOW_TRAINER_SERVER_CA_CERT"), Path(token))

    def post(self, status: Mapping[str, Any]) -> None:
        """Post a status. The token changes during a training, so it is read each time."""
        headers = {"Authorization": f"Bearer {self.token.read_text()}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url, json.dumps({"trainerStatus": status}).encode(), headers)
        context = ssl.create_default_context(cafile=self.ca_cert) if self.url.startswith("https:") else None
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context):
            pass


@contextmanager
def report_progress(server: StatusServer | None, output: Path, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Report every few seconds how far the training that writes to `output` is, and once more at its end.

    Without a server nothing is reported, and a report that fails is left out: neither stops a training.
    """
    if server is None:
        yield
        return
    end, began = threading.Event(), time.monotonic()
    thread = threading.Thread(target=_report, args=[server, output, interval_s, began, end], daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(2 * TIMEOUT_S)


def _report(server: StatusServer, output: Path, interval_s: float, began: float, end: threading.Event) -> None:
    from training.runs.progress import read_table  # loads torch

    first, is_over = None, False
    while not is_over:
        is_over = end.wait(interval_s)
        try:
            table = read_table(output / "losses.csv")
            steps = yaml.safe_load((output / "config.yaml").read_text())["steps"]
            if not table:
                continue
            step = int(table[-1]["step"])
            first = step if first is None else first
            server.post(status_of(step, steps, table[-1]["loss"], step - first, time.monotonic() - began))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the training has not begun to write, or the Trainer does not answer


def status_of(step: int, steps: int, loss: float, taken: int, elapsed_s: float) -> dict[str, Any]:
    """Return the status at a step. taken: the steps of the last `elapsed_s` seconds, by which the rest is estimated."""
    status = {
        "progressPercentage": 100 * step // steps,
        "metrics": [{"name": "step", "value": str(step)}, {"name": "loss", "value": f"{loss:.4g}"}],
        "lastUpdatedTime": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if taken > 0:
        status["estimatedRemainingSeconds"] = round((steps - step) * elapsed_s / taken)
    return status
