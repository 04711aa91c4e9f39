"""What processes answer over HTTP: metrics and health."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

FAMILY = dict[str, float]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def scraped(port: int) -> FAMILY:
    """Every sample by its name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Asked:
    """The three questions to one process."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, path: str) -> list[str]:
        """Reasons against; none is a yes. The status says the same."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
                status, document = answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            status, document = error.code, json.load(error)
        assert document["ok"] is (status == 200) is (not document["reasons"])
        assert status in (200, 503)
        return list(document["reasons"])

    def until(self, path: str, good: Callable[[list[str]], bool]) -> list[str]:
        """Ask again and again."""
        deadline, found = time.monotonic() + 30, ["does not answer"]
        while time.monotonic() < deadline:
            try:
                found = self(path)
                if good(found):
                    return found
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        raise AssertionError(found)
