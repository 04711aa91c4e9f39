"""Lets a process fork where it would start a Python, so that its children need not import what it has imported.

A pipeline, torchrun and Lightning start Pythons that import torch for seconds. Within a process that has called
`install`, such a child has its command, environment, working directory, files, signals and end as ever, and the imports
and the patches of its parent.
"""

import _posixsubprocess
import atexit
import gc
import multiprocessing.process
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Any

start_program: Callable[..., int] = _posixsubprocess.fork_exec


def install() -> None:
    """Fork from now on where `subprocess` or `multiprocessing` starts this interpreter."""
    _posixsubprocess.fork_exec = fork_python  # type: ignore[assignment]
    subprocess._fork_exec = fork_python  # type: ignore[attr-defined]


def fork_python(
    command: Sequence[str],
    programs: Sequence[bytes],
    close_files: bool,
    passed: Sequence[int],
    folder: str | None,
    variables: Sequence[bytes] | None,
    *others: Any,
) -> int:
    """Fork, with the arguments of `_posixsubprocess.fork_exec`. Other programs than this Python are started as ever."""
    if os.fsencode(sys.executable) not in programs:
        return start_program(command, programs, close_files, passed, folder, variables, *others)
    streams, report, new_session = (others[0], others[3], others[5]), others[7], others[9]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        forget_the_parent()
        if new_session:
            os.setsid()
        take_files(streams, set(passed) - {report})  # its parent waits until it is closed
        if folder is not None:
            os.chdir(folder)
        if variables is not None:
            os.environ.clear()
            for variable in variables:
                name, _, value = os.fsdecode(variable).partition("=")
                os.environ[name] = value
        status = run([os.fsdecode(word) for word in command[1:]])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def forget_the_parent() -> None:
    """Drop what is to happen at the end of the parent, and its handlers of signals. Nothing of it is ever collected."""
    gc.freeze()
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    for function in (weakref.finalize._exitfunc, multiprocessing.util._exit_function):  # type: ignore[attr-defined]
        atexit.register(function)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def take_files(streams: Sequence[int], passed: Container[int]) -> None:
    """Make `streams` the standard ones, where they are not -1, and close all others that are not passed."""
    copies = [stream if stream == -1 else os.dup(stream) for stream in streams]
    for number, copy in enumerate(copies):
        if copy != -1:
            os.dup2(copy, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in passed:
            with suppress(OSError):  # of the listing itself
                os.close(int(name))
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False, buffering=1, errors=errors)
        for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )


def run(words: list[str]) -> int:
    """Run `python WORDS`, with -c, -m or a file. Returns the exit status."""
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)  # a module that is run, not imported
    while words[0].startswith("-") and words[0] not in ("-c", "-m"):  # the others are the parent's
        if words.pop(0) == "-W":
            warnings.simplefilter("ignore" if words.pop(0) == "ignore" else "default")
    try:
        match words:
            case ["-c", code, *arguments]:
                sys.argv, sys.path[0] = ["-c", *arguments], ""
                exec(code, {"__name__": "__main__"})
            case ["-m", module, *arguments]:
                sys.argv, sys.path[0] = [module, *arguments], os.getcwd()
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case [file, *arguments]:
                sys.argv, sys.path[0] = [file, *arguments], os.path.dirname(file)
                runpy.run_path(file, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of a Python does
    atexit._run_exitfuncs()
    if not sys.stdout.closed:
        sys.stdout.flush()
    return status
