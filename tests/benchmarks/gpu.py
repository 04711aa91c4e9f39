"""What a GPU does with Darkroom: `make gpu`, or `python -m tests.benchmarks.gpu [--smallest] [--out FOLDER]`.

Each part runs in a process of its own with a time limit, so that one that fails or hangs does not stop the others.
Writes gpu.json and gpu.md, a table, into FOLDER. Without a GPU it says so and ends with 0.

It needs the packages of darkroom[worker] and diffusers, and torch 2.11 or newer; no database and no cluster.
--smallest: rehearse all parts with tiny sizes on whatever device there is, also a CPU.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.gpu_parts import PARTS

TOTAL_S = 410  # of all parts together


def device_name() -> str:
    """Name the device and the versions that matter."""
    libraries = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    if not torch.cuda.is_available():
        return f"no GPU, {libraries}"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {libraries}"


def run_part(name: str, limit_s: float, smallest: bool) -> dict[str, Any]:
    """Run a part in another process. Returns what it measured, or {"error": why not}."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", name, *(["--smallest"] if smallest else [])]
    begun = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished in {limit_s:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "seconds": round(time.monotonic() - begun, 1)}


def table(results: dict[str, Any]) -> str:
    """Return the results as a table in Markdown."""
    lines = [f"{results['device']}", "", "| part | measured | |", "|---|---|---:|"]
    for part, values in results["parts"].items():
        lines += [f"| {part} | {name} | {value} |" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--part", choices=sorted(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    options = parser.parse_args(arguments)
    if options.part:
        print(json.dumps(PARTS[options.part].run(options.smallest)))
        return
    if not torch.cuda.is_available() and not options.smallest:
        print("There is no GPU here, so nothing is measured. --smallest rehearses all parts on the CPU.")
        return
    end = time.monotonic() + TOTAL_S
    results: dict[str, Any] = {"device": device_name(), "smallest": options.smallest, "parts": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        print(f"{name} ...", flush=True)
        limit = min(part.limit_s, end - time.monotonic())
        results["parts"][name] = run_part(name, limit, options.smallest) if limit > 0 else {"error": "no time is left"}
        (options.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "gpu.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
