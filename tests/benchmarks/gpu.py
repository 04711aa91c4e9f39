"""What a GPU does with Darkroom: `make gpu`, or `python -m tests.benchmarks.gpu [--smallest] [--out FOLDER]`.

Each part runs in a process of its own with a time limit, and each number is kept as soon as it is measured, so that a
part that fails or hangs loses neither the others nor what it measured before. The parts that measure no time run first
and at once, and beside them the others compile their networks, which they find compiled when their turn comes. Writes
gpu.json and gpu.md, a table, into FOLDER after each part. What a part that fails printed last, with its traceback, is
printed at once and kept in gpu.json. A part that measures no time and failed is run again at the end, alone, because
beside the others it may have had too little memory or time. Without a GPU it says so and ends with 0.

It needs the packages of darkroom[worker] and darkroom[training] and diffusers, and torch 2.11 or newer; no database and
no cluster. --smallest: rehearse all parts with tiny sizes on whatever device there is, also a CPU. --only: some parts.
"""

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PREPARES = "DARKROOM_GPU_PREPARES"  # set where a part only compiles what it will measure, beside other parts
SHARED = "DARKROOM_GPU_SHARED"  # a folder for what a part prepares
TOTAL_S = 480  # of all parts together
PREPARED_S = 200  # for the parts that run at once
MARK = "measured: "  # begins a line with a number in the output of a part
TRACE_LINES = 80
STACKS_S = 3  # before its limit a part that hangs prints where its threads are
LEAST_S = 20  # that is worth starting a part for
WHAT_PREPARING_SAYS = ("seconds", "error", "trace")


@dataclass(frozen=True)
class Part:
    """A measurement, as MODULE:FUNCTION, and the seconds that it may take.

    is_timed: it has the device for itself. compiles: it is prepared beside others.
    """

    function: str
    limit_s: float
    is_timed: bool = True
    compiles: bool = True

    def load(self) -> Callable[[bool, Callable[[str, float], None]], None]:
        """Return the function, which takes whether sizes are the smallest, and where to report numbers."""
        module, name = self.function.split(":")
        function: Callable[[bool, Callable[[str, float], None]], None]
        function = getattr(import_module(f"tests.benchmarks.{module}"), name)
        return function


# The most important first, for the time may end.
PARTS = {
    "tests": Part("gpu_tests:run", PREPARED_S, is_timed=False),
    "bytes": Part("gpu_parts:same_bytes", PREPARED_S, is_timed=False),
    "out of memory": Part("gpu_memory:out_of_memory", PREPARED_S, is_timed=False),
    "limits": Part("gpu_parts:limits", 30, compiles=False),
    "networks": Part("gpu_parts:networks", 90),
    "service": Part("gpu_service:service", 150),  # with 90 to compile if there is no compile cache yet
    "second stage": Part("gpu_training:second_stage", 120),
    "engine": Part("gpu_parts:engine_step", 60),
    "decode": Part("gpu_service:decode", 60),
    "first stage": Part("gpu_training:first_stage", 90),
}


def device_name() -> str:
    """Name the device and the versions that matter."""
    import torch

    libraries = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    if not torch.cuda.is_available():
        return f"no GPU, {libraries}"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {libraries}"


def run_part(name: str, limit_s: float, smallest: bool, **environment: str) -> dict[str, Any]:
    """Run a part in another process. Returns what it measured, and under "error" and "trace" why there is no more."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", name, *(["--smallest"] if smallest else [])]
    command += ["--until", str(time.time() + limit_s)]
    begun = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as output,
        tempfile.TemporaryFile("w+", errors="replace") as log,
    ):
        # Its own processes, such as a compiler's, may outlive it: they write to files, which do not wait for an end.
        process = subprocess.Popen(
            command, stdout=output, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
            problem = f"exit code {code}" if code else None
        except subprocess.TimeoutExpired:
            code, problem = 0, f"not finished in {limit_s:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        log.seek(0)
        found = read_numbers(output)
        found["seconds"] = round(time.monotonic() - begun, 1)
        if problem is not None:
            trace = log.read().strip().splitlines()[-TRACE_LINES:]
            found |= {"error": f"{problem}: {trace[-1]}" if code > 0 and trace else problem, "trace": trace}
        return found


def try_part(name: str, limit_s: float, smallest: bool, **environment: str) -> dict[str, Any]:
    """Do what `run_part` does. If the machine cannot even start the part, that is its error. Prints what went wrong."""
    try:
        found = run_part(name, limit_s, smallest, **environment)
    except Exception as error:
        trace = traceback.format_exc().splitlines()
        found = {"seconds": 0.0, "error": f"{type(error).__name__}: {error}", "trace": trace}
    if "error" in found:
        print("\n".join([f"{name}: {found['error']}", *(f"    {line}" for line in found["trace"])]), flush=True)
    return found


def run_all(names: Sequence[str], smallest: bool, keep: Callable[[str, dict[str, Any]], None]) -> None:
    """Run parts: those without times at once, while the others compile, and then the others one by one."""
    import torch

    end = time.monotonic() + TOTAL_S
    compiles, failed = torch.cuda.is_available(), list[str]()
    with tempfile.TemporaryDirectory(prefix="darkroom-gpu-", ignore_cleanup_errors=True) as folder:
        shared = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", SHARED: folder}
        with ThreadPoolExecutor(len(PARTS)) as pool:
            begun = {}
            for name in names:
                part, preparing = PARTS[name], {} if not PARTS[name].is_timed else {PREPARES: "1"}
                if not part.is_timed or (compiles and part.compiles):
                    limit = min(PREPARED_S, part.limit_s) if not part.is_timed else PREPARED_S
                    begun[pool.submit(try_part, name, limit, smallest, **shared, **preparing)] = name
            for done in as_completed(begun):
                name, found = begun[done], done.result()
                print(f"{name}: {found['seconds']} s", flush=True)
                if PARTS[name].is_timed:
                    found = {f"preparing, {key}": value for key, value in found.items() if key in WHAT_PREPARING_SAYS}
                elif "error" in found:
                    failed.append(name)
                keep(name, found)
        for name in (*(name for name in names if PARTS[name].is_timed), *failed):
            print(f"{name} ...", flush=True)
            left = end - time.monotonic()
            found = {"error": "no time is left"}
            if left >= LEAST_S:
                found = try_part(name, min(PARTS[name].limit_s, left), smallest, **shared)
            again = "alone, " if name in failed else ""
            keep(name, {f"{again}{key}": value for key, value in found.items()})


def read_numbers(lines: Iterable[str]) -> dict[str, Any]:
    """Return what was measured, by name. The last line may be half of one."""
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith(MARK):
            with suppress(ValueError):
                name, value = json.loads(line.removeprefix(MARK))
                found[name] = value
    return found


def report(name: str, value: float) -> None:
    """Print a number so that `run_part` finds it."""
    print(f"{MARK}{json.dumps([name, float(f'{value:.4g}') if isinstance(value, float) else value])}", flush=True)


def table(results: dict[str, Any]) -> str:
    """Return the results as a table in Markdown."""
    lines = [f"{results['device']}", "", "| part | measured | |", "|---|---|---:|"]
    for part, values in results["parts"].items():
        lines += [f"| {part} | {name} | {value} |" for name, value in values.items() if not name.endswith("trace")]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--part", choices=sorted(PARTS), help="run this part in this process")
    parser.add_argument("--until", type=float, default=float("inf"), help="when this process will be ended")
    parser.add_argument("--only", choices=sorted(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    options = parser.parse_args(arguments)
    if options.part:
        if options.until < float("inf"):
            faulthandler.dump_traceback_later(max(0.1, options.until - STACKS_S - time.time()))
        PARTS[options.part].load()(options.smallest, report)
        return
    import torch

    if not torch.cuda.is_available() and not options.smallest:
        print("There is no GPU here, so nothing is measured. --smallest rehearses all parts on the CPU.")
        return
    results: dict[str, Any] = {"device": device_name(), "smallest": options.smallest, "parts": {}}
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(name: str, found: dict[str, Any]) -> None:
        results["parts"].setdefault(name, {}).update(found)
        (options.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "gpu.md").write_text(table(results))

    run_all([name for name in PARTS if name in options.only], options.smallest, keep)
    print(table(results))


if __name__ == "__main__":
    main()
