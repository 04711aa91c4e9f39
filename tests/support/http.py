"""Clients of the metrics and health endpoints of a process."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, float]


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def scrape_metrics(port: int) -> Samples:
    """Return the value of every sample, by its name and its labels: `name,label=value`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class HealthClient:
    """Asks one process for its health: the paths healthz, readyz and startupz."""

    def __init__(self, port: int) -> None:
        self.port = port

    def reasons(self, path: str) -> list[str]:
        """Return why the process is not healthy; empty if it is. The HTTP status has to agree."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
                status, document = answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            status, document = error.code, json.load(error)
        assert document["ok"] is (status == 200) is (not document["reasons"])
        assert status in (200, 503)
        return list(document["reasons"])

    def wait_until(self, path: str, accept: Callable[[list[str]], bool]) -> list[str]:
        """Ask until `accept` is true of the reasons, for at most 30 s, and return them."""
        deadline, found = time.monotonic() + 30, ["does not answer"]
        while time.monotonic() < deadline:
            try:
                found = self.reasons(path)
                if accept(found):
                    return found
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        raise AssertionError(found)
