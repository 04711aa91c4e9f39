"""The part of `tests.benchmarks.gpu` that runs tests/gpu in a process with a time limit: with pytest, or without.

`python -m tests.benchmarks.gpu_tests` runs them without pytest, which the worker's packages do not contain.
"""

import os
import re
import subprocess
import sys
import time
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.gpu_parts import Report

FOLDER = Path(__file__).parents[1] / "gpu"
LIMIT_S = 170
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


def run(smallest: bool, report: Report) -> None:
    """Count the tests that pass, fail and are skipped. Raises SystemExit if one fails. smallest: rehearse on a CPU."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_tests"]
    if find_spec("pytest"):
        # Without the project's configuration and fixtures, which need packages of the whole service.
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"-c{os.devnull}", "--rootdir=."]
        command += ["--import-mode=importlib", "--confcutdir=tests/gpu", str(FOLDER)]
    environment = {**os.environ, "DARKROOM_REHEARSE_GPU": "1"} if smallest else None
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S, env=environment
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, code = (error.stdout or b"").decode(errors="replace"), -1
    lines = output.strip().splitlines()
    for count, state in COUNT.findall(lines[-1] if lines and code != -1 else ""):
        report(f"tests {state}", int(count))
    if code:
        print(output, file=sys.stderr)
        if code == -1:
            report("tests passed", sum(" PASSED" in line for line in lines))
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        problem = "; ".join(failed)[:600] or (f"not finished in {LIMIT_S} s" if code == -1 else lines[-1])
        raise SystemExit(f"tests/gpu: {problem}")


def main() -> None:
    """Run every function `test_*` of tests/gpu, which take no arguments, and print as pytest does."""
    outcomes: list[str] = []
    for path in sorted(FOLDER.glob("test_*.py")):
        module = import_module(f"tests.gpu.{path.stem}")
        for name, test in vars(module).items():
            if not name.startswith("test_"):
                continue
            begun, failure = time.perf_counter(), ""
            try:
                test()
            except Exception as error:
                failure = f"{type(error).__name__}: {error}".splitlines()[0]
                traceback.print_exc()
            outcomes.append("failed" if failure else "passed")
            state = f"FAILED {path.stem}::{name} {failure}" if failure else f"{path.stem}::{name} PASSED"
            print(f"{state} in {time.perf_counter() - begun:.1f} s", flush=True)
    print(", ".join(f"{outcomes.count(state)} {state}" for state in ("failed", "passed") if state in outcomes))
    sys.exit("failed" in outcomes)


if __name__ == "__main__":
    main()
