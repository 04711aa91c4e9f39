"""The `darkroom` command, as a process of its own or within this one."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support import fork_server

Completed = subprocess.CompletedProcess[str]
Darkroom = Callable[..., Completed]  # the arguments of `darkroom`; keyword arguments are environment variables


def run_darkroom(root: Path, *arguments: str, timeout: float = 120, **environment: str) -> Completed:
    """Run `darkroom ARGUMENTS` as a process, with the local stack in `root`."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "DARKROOM_ROOT": str(root), "COLUMNS": "200", **environment},
    )


def start_darkroom(
    root: Path, arguments: Sequence[str], output: Path, errors: Path, first: str = "", **environment: str
) -> fork_server.Forked:
    """Start `darkroom ARGUMENTS` as a process that is forked from one that has made its imports.

    first: Python code to run before, for a command that trains.
    """
    variables = {**os.environ, "DARKROOM_ROOT": str(root), "COLUMNS": "200", **environment}
    code = f"{first}\nimport sys; sys.argv[0] = 'darkroom'; from services import cli; cli.main()"
    server = fork_server.server(fork_server.TRAINING if first else fork_server.SERVICES)
    return server.start(code, arguments, output, variables, errors)


def fork_darkroom(root: Path, *arguments: str, timeout: float = 120, first: str = "", **environment: str) -> Completed:
    """Run `darkroom ARGUMENTS`; see `start_darkroom`."""
    with tempfile.TemporaryDirectory(prefix="darkroom-output-") as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        child = start_darkroom(root, arguments, output, errors, first, **environment)
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise
        return subprocess.CompletedProcess(["darkroom", *arguments], status, output.read_text(), errors.read_text())


def call_darkroom(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str, **environment: str) -> Completed:
    """Run `darkroom ARGUMENTS` within this process: a process of its own imports for two seconds first."""
    from services import cli
    from services.database import connections

    connect = connections.connect
    engines: list[Engine] = []

    def connect_and_remember(url: str) -> Engine:
        engines.append(connect(url))
        return engines[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "connect", connect_and_remember)
        for name, value in {"DARKROOM_ROOT": str(root), "COLUMNS": "200", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["darkroom", *arguments])
        capsys.readouterr()  # what the test printed before
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        for engine in engines:  # the end of a process closes its connections
            engine.dispose()
        output = capsys.readouterr()
    code = exit_.value.code
    return subprocess.CompletedProcess(["darkroom", *arguments], int(code or 0), output.out, output.err)
