"""The `darkroom` command, as a process of its own or within this one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

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
