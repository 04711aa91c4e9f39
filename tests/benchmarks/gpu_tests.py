"""The part of `tests.benchmarks.gpu` that runs tests/gpu, a process for each file: with pytest, or without.

`python -m tests.benchmarks.gpu_tests FILE` runs a file without pytest, which the worker's packages do not contain.
"""

import os
import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.gpu_timing import Report

FOLDER = Path(__file__).parents[1] / "gpu"
LIMIT_S = 180
DONE = re.compile(r"^(?:\S+::(\S+) )?(PASSED|FAILED|SKIPPED)", re.MULTILINE)


def run(smallest: bool, report: Report) -> None:
    """Count the tests that pass, fail and are skipped. Raises SystemExit if one fails. smallest: rehearse on a CPU."""
    environment = {**os.environ, **({"DARKROOM_REHEARSE_GPU": "1"} if smallest else {})}
    files = sorted(FOLDER.glob("test_*.py"))
    problems, states = list[str](), Counter[str]()
    with ThreadPoolExecutor(len(files)) as pool:
        for done in as_completed([pool.submit(run_file, path, environment) for path in files]):
            output, problem = done.result()
            states.update(state for _, state in DONE.findall(output))
            for state in ("PASSED", "SKIPPED"):
                if states[state]:
                    report(f"tests {state.lower()}", states[state])
            if problem:
                problems.append(problem)
                print(output, file=sys.stderr, flush=True)
    if problems:
        raise SystemExit("; ".join(problems)[:600])


def run_file(path: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Run the tests of a file. Returns the output, and what went wrong if anything did."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_tests", str(path)]
    if find_spec("pytest"):
        # Without the project's configuration and fixtures, which need packages of the whole service.
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"-c{os.devnull}", "--rootdir=."]
        command += ["--import-mode=importlib", "--confcutdir=tests/gpu", "--durations=0", str(path)]
        command += ["-o", f"faulthandler_timeout={LIMIT_S - 20}"]  # prints where a test that hangs is
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S, env=environment
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace"), f"{path.stem}: not finished in {LIMIT_S} s"
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.stdout, "; ".join(failed or lines[-1:]) if done.returncode else ""


def main() -> None:
    """Run every function `test_*` of a file, which take no arguments, and print as pytest does."""
    path, has_failed = Path(sys.argv[1]), False
    for name, test in vars(import_module(f"tests.gpu.{path.stem}")).items():
        if not name.startswith("test_"):
            continue
        begun, failure = time.perf_counter(), ""
        try:
            test()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}".splitlines()[0]
            traceback.print_exc()
        has_failed |= bool(failure)
        state = f"FAILED {path.stem}::{name} {failure}" if failure else f"{path.stem}::{name} PASSED"
        print(f"{state} in {time.perf_counter() - begun:.1f} s", flush=True)
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
