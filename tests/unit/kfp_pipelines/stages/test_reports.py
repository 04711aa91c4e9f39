"""How a run ended is told in the words of either backend."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kfp_pipelines.stages import entry, reports
from kfp_pipelines.stages.gate import GateError


@pytest.mark.parametrize("state", ["SUCCEEDED", "Succeeded", "COMPLETE"])
def test_a_run_that_succeeded_is_reported_as_such(state: str, tmp_path: Path) -> None:
    """Kubeflow's open-source backend sends COMPLETE, others send SUCCEEDED."""
    reports.end("r1", state, "", "", tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == "# run r1 ended: SUCCEEDED\n"


@pytest.mark.parametrize(
    ("state", "code", "message", "told"),
    [
        ("FAILED", "9", "train-diffusion failed", "FAILED, train-diffusion failed"),
        ("CANCELED", "1", "", "CANCELED, 1"),
        ("FAILED", "", "", "FAILED, the backend gives no reason"),
    ],
)
def test_a_run_that_failed_is_reported_with_its_reason(
    state: str, code: str, message: str, told: str, tmp_path: Path
) -> None:
    reports.end("r1", state, code, message, tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text().startswith(f"# run r1 ended: {told}\n")


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """An address, and what was posted there: the path and the document."""
    posted: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", posted
    server.shutdown()
    server.server_close()


def test_a_failed_run_is_told_to_a_webhook_and_to_alertmanager(
    receiver: tuple[str, list[tuple[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, posted = receiver
    for path in ("/services/T0/B0", "/api/v2/alerts"):
        monkeypatch.setenv("DARKROOM_NOTIFY_URL", address + path)
        entry.report_end("r1", "COMPLETE", "", "", str(tmp_path / "report.md"))
        entry.report_end("r1", "FAILED", "", "the gate has no images", str(tmp_path / "report.md"))
    (chat, said), (_, (alert,)) = posted
    assert (chat, said) == ("/services/T0/B0", {"text": "run r1 ended: FAILED, the gate has no images"})
    assert alert["labels"] == {"alertname": "DarkroomPipelineFailed", "severity": "warning", "run": "r1"}
    assert alert["annotations"]["summary"] == said["text"]


@pytest.mark.parametrize("path", ["/broken", None])
def test_a_receiver_that_fails_changes_nothing_and_its_path_stays_secret(
    receiver: tuple[str, list[tuple[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str | None
) -> None:
    url = "http://127.0.0.1:9/secret" if path is None else f"{receiver[0]}{path}/secret"
    reports.end("r1", "FAILED", "", "why", tmp_path / "report.md", url)
    written = capsys.readouterr().out
    assert "127.0.0.1 could not be told that the run failed" in written
    assert "secret" not in written


def test_a_stage_of_a_sweep_that_fails_tells_somebody_by_itself(
    receiver: tuple[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_NOTIFY_URL", receiver[0])
    with pytest.raises(GateError):
        entry.choose_best("worst psnr", [], [], str(tmp_path), str(tmp_path), str(tmp_path / "page.html"))
    (posted,) = receiver[1]
    told = "a sweep could not choose best: by: 'worst psnr' is not allowed; permitted: least METRIC, most METRIC"
    assert told in str(posted)
