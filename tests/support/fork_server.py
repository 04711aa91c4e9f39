"""Processes that start in a tenth of a second, because they are forked from one that has made their imports.

Importing a module of the project has no effect, which a test holds, so a process that is forked after the imports runs
as one that made them itself. It has its own environment, arguments, output, threads and signals, and ends as any
process does. Its parent is the server, which is asked for its exit status.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

SERVICES = (
    "services.cli.processes",
    "services.dispatcher.dispatcher",
    "services.exporter",
    "services.observability.logs",
    "services.process.celery_app",
    "services.worker.worker",
    # What a dispatcher and a worker import only when they start:
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "kombu.transport.redis",
    "numpy.random",
    "services.database.schema",
    "services.observability.http",
    "services.worker.device",
    "sqlalchemy.dialects.postgresql",
)
TRAINING = (
    "kfp.dsl.executor_main",
    "kfp.local",
    "kfp_pipelines.commands.pipeline",
    "kfp_pipelines.definition.pipeline",
    "kfp_pipelines.running.local",
    "kfp_pipelines.running.stage_processes",
    "kfp_pipelines.stages.entry",
    "services.storage.object_store",
    "torch.distributed.run",
    "training.evaluation.networks",
    "training.experiments.compose",
    "training.prepare",
    "training.runs.autoencoder",
    "training.runs.diffusion",
    "training.runs.distillation",
)
# Code for a process that is forked: what it starts of this Python is forked too, if its imports are long.
FORKS = "from tests.support import forked_python; forked_python.install()\n"


class Forked:
    """A forked process, with the methods of subprocess.Popen."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None
        self._polling = threading.Lock()  # the status of a process can be asked for once

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs. Several threads may call it."""
        with self._polling:
            if self.returncode is None:
                self.returncode = self._server.ask({"poll": self.pid})
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status of the process when it ends. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # another thread has asked for its status
                ended = os.pidfd_open(self.pid)
                select.select([ended], [], [], timeout)
                os.close(ended)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:  # it keeps its number until the server is asked for its status
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A process that has imported `modules` and forks others. Several threads may use it."""

    def __init__(self, modules: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._file = ours.makefile("rw")
        self._lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        """End the server. Processes that it forked go on."""
        self._file.close()
        self._process.wait()

    def start(
        self, code: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str], errors: Path | None = None
    ) -> Forked:
        """Run Python code in a new process that appends to `log`. arguments: the rest of its sys.argv.

        errors: where it writes its standard error; by default `log` too.
        """
        log.touch()  # for who reads it at once
        files = [str(log), str(errors or log)]
        request = {"code": code, "arguments": arguments, "files": files, "environment": dict(environment)}
        return Forked(self, self.ask(request))

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Send a request and return the answer."""
        with self._lock:
            self._file.write(json.dumps(request) + "\n")
            self._file.flush()
            return json.loads(self._file.readline())


@cache
def server(modules: tuple[str, ...]) -> ForkServer:
    """Return the server of this process that has imported `modules`. It ends with this process."""
    return ForkServer(modules)


def serve(file: int, modules: Sequence[str]) -> str | None:
    """Import `modules` and answer requests. Returns the code to run in a forked process, and None in the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the tests end the processes
    for module in modules:
        importlib.import_module(module)
    from services.s3_client import make_client

    # A client reads botocore's definitions, which later ones share.
    make_client(endpoint_url="http://127.0.0.1:9", region="us-east-1", access_key_id="-", secret_access_key="-")
    assert threading.active_count() == 1, "a fork copies no other thread, and whatever lock that one holds"
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=file) as connection, connection.makefile("rw") as lines:
        for line in lines:
            request = json.loads(line)
            answer = poll(request["poll"]) if "poll" in request else os.fork()
            if answer == 0 and "code" in request:
                break
            lines.write(json.dumps(answer) + "\n")
            lines.flush()
        else:
            return None
    become(request)
    return str(request["code"])


def poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def become(request: Mapping[str, Any]) -> None:
    """Give this process the environment, the arguments, the files and the signals of a new one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, path in zip((sys.stdout, sys.stderr), request["files"], strict=True):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]


if __name__ == "__main__":
    code = serve(int(sys.argv[1]), sys.argv[2:])
    if code is not None:
        exec(code, {"__name__": "__main__"})
