"""Compiles the networks of a release in a process of its own, which can be ended when it takes too long.

`python -m services.worker.compile_apart` reads what to compile as JSON from its input, writes torch's cache to a file,
and prints a line of JSON if that fails. It ends when its input ends, that is with the worker.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from services.worker.compiled_files import pack
from services.worker.device_faults import OutOfMemory, UnstableProfile
from training.errors import first_line

ENDED = "the process that compiled it ended"


class TooLate(UnstableProfile):
    """Compiling took longer than it may."""


@dataclass(frozen=True)
class Networks:
    """What to compile; see `Engine`."""

    folder: str
    rows: int
    decode: int
    device: str
    profile: str


def compile_apart(networks: Networks, limit_s: float) -> bytes:
    """Return what torch compiled, see `compiled_files`.

    Raises TooLate after `limit_s`, OutOfMemory, and UnstableProfile if the networks cannot be compiled.
    """
    with tempfile.TemporaryDirectory(prefix="darkroom-compile-") as folder:
        out = Path(folder) / "cache"
        command = [sys.executable, "-m", "services.worker.compile_apart"]
        # A cache of its own: what it finds elsewhere may be of another process, with other kernels.
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps({**asdict(networks), "out": str(out)}) + "\n")
                process.stdin.flush()  # and stays open, see `main`
            process.wait(limit_s)
            if process.returncode:
                _raise(process.stdout.read(), process.returncode, networks.profile)
            return out.read_bytes()
        except subprocess.TimeoutExpired:
            raise TooLate(f"it was not compiled in {limit_s:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its compilers too
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):
                process.stdin.close()


def _raise(output: str, code: int, profile: str) -> None:
    """Raise what the process printed before it ended with this code."""
    lines = output.strip().splitlines()
    try:
        said = json.loads(lines[-1])
        kind, problem, part = said["kind"], said["problem"], said["part"]
    except (ValueError, IndexError, KeyError, TypeError):
        kind, problem, part = "", f"{ENDED} with code {code}", None
    if kind == OutOfMemory.__name__:
        raise OutOfMemory(problem, part)
    if kind != UnstableProfile.__name__:
        problem = f"profile {profile}: it cannot be compiled: {f'{kind}: ' if kind else ''}{problem}"
    raise UnstableProfile(problem)


def main() -> None:
    """Compile what the input says."""
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    out = Path(given.pop("out"))
    import torch

    from services.worker.engine import Engine

    try:
        networks = Networks(**given)
        Engine[None](
            Path(networks.folder), rows=networks.rows, decode=networks.decode, device=networks.device,
            profile=networks.profile,
        )  # fmt: skip
        saved = torch.compiler.save_cache_artifacts()
        if saved is None:
            raise UnstableProfile("torch saved nothing of what it compiled")
        out.write_bytes(pack(saved[0], Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])))
    except Exception as error:
        if not isinstance(error, OutOfMemory | UnstableProfile):
            traceback.print_exc()
        part = getattr(error, "part", None)
        print(json.dumps({"kind": type(error).__name__, "problem": first_line(error), "part": part}), flush=True)
        os._exit(1)
    os._exit(0)  # without waiting for the processes of the compiler


def _end_with_the_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
