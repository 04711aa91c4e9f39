"""Real processes of the `darkroom` command."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path


def launch(name: str, log: Path, first: str, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start `darkroom NAME` as a process that appends to `log`. first: Python code to run before."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", f"{first}\nfrom services import cli\ncli.main()", name],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **environment},
        )


class Supervised:
    """A `darkroom NAME` process of the stack in `root` that is restarted whenever it ends, as Kubernetes does."""

    def __init__(self, root: Path, name: str, environment: Mapping[str, str], first: str = "") -> None:
        self.name, self.first = name, first
        self.environment = {"DARKROOM_ROOT": str(root), **environment}
        self.log = root / "logs" / f"supervised-{name}-{uuid.uuid4().hex[:6]}.log"
        self.starts = 0
        self._ending = threading.Event()
        self.child = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the current process, if it runs."""
        if self.child.poll() is None:
            self.child.send_signal(number)

    def stop(self) -> None:
        """Kill the process and do not restart it."""
        self._ending.set()
        self._thread.join()
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.kill()
        self.child.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.starts += 1
        return launch(self.name, self.log, self.first, self.environment)

    def _watch(self) -> None:
        while not self._ending.wait(0.2):
            if self.child.poll() is not None:
                self.child = self._start()
