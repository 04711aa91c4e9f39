"""Starts the stages of a local run from one process that has made their imports.

KFP's local runner starts a Python for each stage, and a stage imports torch, Lightning and KFP for five seconds and
more. Here multiprocessing's fork server imports them once. A stage remains a process of its own: it can be killed, run
out of memory and exit as before. KFP has no hook for this, so `fork_stages` replaces the function that starts a stage.

A stage ends with the command that runs the pipeline, however that ends: the command holds the writing end of a pipe,
and each stage waits for its end of file. A killed command can do nothing for its stages; the system closes its pipe.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from kfp.local import subprocess_task_handler

PRELOADED = (
    "kfp.dsl.executor_main",
    "kfp_pipelines.stages.entry",
    "training.experiments.compose",
    "training.runs.autoencoder",
    "training.runs.diffusion",
    "training.runs.distillation",
)
GRACE_S = 60.0  # between the end of the command and the death of a stage that does not stop


def fork_stages(lifeline: int | None = None) -> None:
    """Let KFP's local runner fork each stage. Call it before the first stage, in a process of one thread.

    lifeline: the reading end of a pipe that nothing is written to; stages end when its writing end is closed.
    """
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    multiprocessing.forkserver.ensure_running()
    subprocess_task_handler.run_local_subprocess = partial(run_stage, lifeline=lifeline)


def run_stage(
    full_command: Sequence[str], env_vars: Mapping[str, str] | None = None, *, lifeline: int | None = None
) -> int:
    """Run a stage and print what it prints. Returns its exit code; minus the signal's number if a signal ended it.

    full_command: as KFP makes it for a Python component: a shell, its script, the source of the component and the
    arguments of `kfp.dsl.executor_main`. env_vars: added to the environment. lifeline: see `fork_stages`.
    """
    shell, flags, script, source, *arguments = full_command
    if (shell, flags) != ("sh", "-ec") or "kfp.dsl.executor_main" not in script:
        raise ValueError(f"KFP's command of a stage has another form than KFP 2.17's: {full_command[:3]}")
    reader, writer = multiprocessing.Pipe(duplex=False)
    command_end = None if lifeline is None else Connection(os.dup(lifeline), writable=False)
    stage = multiprocessing.get_context("forkserver").Process(
        target=_execute, args=(source, arguments, dict(env_vars or {}), writer, command_end)
    )
    stage.start()
    writer.close()  # the stage has its own, so that reading ends with the stage
    with open(os.dup(reader.fileno()), errors="replace") as output:
        reader.close()
        for line in output:
            with suppress(BrokenPipeError):  # the command was killed; the stage may still save its state
                print(line, end="")
    print("\n")
    stage.join()
    assert stage.exitcode is not None
    return stage.exitcode


def _execute(
    source: str,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    output: Connection,
    command_end: Connection | None,
) -> None:
    """Run a component with KFP's executor in this process, which the fork server made for it."""
    from kfp.dsl import executor_main

    if command_end is not None:
        threading.Thread(target=_end_with, args=(command_end,), daemon=True).start()
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(output.fileno(), descriptor)
    output.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper
    os.environ.update(variables, _KFP_RUNTIME="true")
    # Lightning starts the processes of further devices with the command of this module.
    sys.modules["__main__"] = executor_main
    with tempfile.TemporaryDirectory() as folder:
        component = Path(folder, "ephemeral_component.py")
        component.write_text(source)
        sys.argv = [str(executor_main.__file__), "--component_module_path", str(component), *arguments]
        executor_main.executor_main()


def _end_with(command_end: Connection) -> None:
    """Wait until the command has ended, and end this process: as a signal does, so that training saves its state."""
    command_end.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
