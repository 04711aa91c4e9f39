"""Every error is one message and an exit code, never a traceback on the terminal."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.failures import exit_on_error
from services.errors import EXIT_TERMINATED, CommandError
from training.errors import EXIT_UNEXPECTED
from training.runs.errors import Interrupted

Captured = pytest.CaptureFixture[str]


def raise_and_exit(error: BaseException) -> object:
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise error
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CommandError("queue: 'x' does not exist"), 1, "error: queue: 'x' does not exist\n"),
        (Interrupted("stopped at step 7"), 75, "error: stopped at step 7\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_its_message_and_its_code(capfd: Captured, error: BaseException, code: int, message: str) -> None:
    assert raise_and_exit(error) == code
    assert capfd.readouterr().err.replace("\x1b[31m\x1b[1m", "").replace("\x1b[0m", "") == message


@pytest.mark.parametrize("kept", [True, False])
def test_the_traceback_of_a_bug_goes_to_a_file(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: bool
) -> None:
    monkeypatch.setenv("DARKROOM_ROOT", str(tmp_path / "stack"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if kept:
        (tmp_path / "stack" / "logs").mkdir(parents=True)
    assert raise_and_exit(ZeroDivisionError("division by zero\nand more")) == EXIT_UNEXPECTED
    (line,) = capfd.readouterr().err.splitlines()
    assert "unexpected ZeroDivisionError: division by zero and more. This is a bug" in line
    match = re.search(r"the traceback is in (.+)", line)
    assert match, line
    path = Path(match[1])
    assert path.parent == (tmp_path / "stack" / "logs" if kept else tmp_path)
    assert "Traceback (most recent call last)" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_reader_that_closes_the_pipe_is_not_an_error_message(tmp_path: Path) -> None:
    command = f"{sys.executable} -m services.cli --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_command_that_waits_ends_at_sigterm() -> None:
    """The exit code is that of a handler: without one, the first process of a container would ignore the signal."""
    environment = {**os.environ, "DARKROOM_DATABASE_URL": "postgresql://127.0.0.1:9/x", "KUBERNETES_SERVICE_HOST": "h"}
    command = [sys.executable, "-m", "services.cli", "db", "wait"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout
        message = waiting.stdout.readline()
        waiting.terminate()
        assert waiting.wait(timeout=30) == EXIT_TERMINATED
    assert "does not answer" in message
    assert "Check DARKROOM_DATABASE_URL" in message
    assert "darkroom up" not in message, "a pod has no local stack"
