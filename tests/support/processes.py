"""Real processes of the `darkroom` command."""

import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from tests.support import fork_server

Child: TypeAlias = "subprocess.Popen[bytes] | fork_server.Forked"


def launch(name: str, log: Path, first: str, environment: Mapping[str, str], before_imports: str = "") -> Child:
    """Start `darkroom NAME` as a process that appends to `log`. first: Python code to run before.

    The process is forked from one that has made its imports. With `before_imports`, which is Python code too, or with
    variables of other programs, which an import may read, it makes them itself.
    """
    code = f"{before_imports}\n{first}\nfrom services import cli\ncli.main()"
    if not before_imports and all(variable.startswith("DARKROOM_") for variable in environment):
        return fork_server.server(fork_server.SERVICES).start(code, [name], log, {**os.environ, **environment})
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", code, name],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **environment},
        )


def peak_memory_mib(pid: int) -> float:
    """Return how much memory a process has had at most, in MiB."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


class Supervised:
    """A `darkroom NAME` process of the stack in `root` that is restarted whenever it ends, as Kubernetes does."""

    def __init__(
        self, root: Path, name: str, environment: Mapping[str, str], first: str = "", before_imports: str = ""
    ) -> None:
        self.name, self.first, self.before_imports = name, first, before_imports
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

    def _start(self) -> Child:
        self.starts += 1
        return launch(self.name, self.log, self.first, self.environment, self.before_imports)

    def _watch(self) -> None:
        while not self._ending.wait(0.2):
            if self.child.poll() is not None:
                self.child = self._start()
