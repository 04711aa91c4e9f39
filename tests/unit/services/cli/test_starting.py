"""Commands that need a dispatcher and a worker say which of them they start."""

from pathlib import Path

import pytest

from services.cli.stack import start_processes_if_local
from services.local_stack import background, processes


def test_what_is_started_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    running = {"dispatcher": object()}
    started: list[str] = []

    def start(root: Path, name: str) -> int:
        started.append(name)
        running[name] = object()
        return 1

    monkeypatch.delenv("DARKROOM_DATABASE_URL", raising=False)
    monkeypatch.setattr(processes, "find", lambda root, name: running.get(name))
    monkeypatch.setattr(background, "start_background", start)
    start_processes_if_local()
    assert started == ["worker"]
    assert capsys.readouterr().err == "Starting a worker, which takes some seconds. Stop it with: darkroom down\n"
    start_processes_if_local()
    assert (started, capsys.readouterr().err) == (["worker"], "")
