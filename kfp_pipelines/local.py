"""Running the pipeline on this machine with `kfp.local`: the stages are subprocesses of this Python.

KFP's local runner patches `print` and the root logger and tells of failures on standard output only, so it runs
in a process of its own, whose lines the caller reads.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WORDS = re.compile(r"^\s*(?P<kind>(\w+\.)*\w*(Error|Exception))(: (?P<message>.*))?$")  # a traceback's last line
ANSI = re.compile(r"\x1b\[[0-9;]*m")
TASK = re.compile(r"Executing task '(?P<name>[^']+)'")


class PipelineError(Exception):
    """A stage failed; the message holds what it said last and where its log is."""


def run(
    variant: str,
    arguments: Mapping[str, Any],
    pipeline_root: Path,
    *,
    on_stage: Callable[[str], None] = lambda name: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a pipeline with `arguments`; artifacts and pipeline.log go under `pipeline_root`.

    on_stage hears each stage's name as it starts, on_line every line of output. Raises PipelineError.
    """
    pipeline_root.mkdir(parents=True, exist_ok=True)
    log = pipeline_root / "pipeline.log"
    command = [sys.executable, "-m", "kfp_pipelines.local", variant, str(pipeline_root), json.dumps(dict(arguments))]
    stage, words = "the pipeline", "it said nothing"
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        for raw in process.stdout:
            line = ANSI.sub("", raw.rstrip())
            file.write(line + "\n")
            file.flush()
            if match := TASK.search(line):
                stage = match["name"]
                on_stage(stage)
            elif match := WORDS.match(line):
                words = match["message"] or match["kind"]
            on_line(line)
    if process.returncode:
        raise PipelineError(f"{stage}: {words}\nThe whole log is in {log}")


def main() -> None:
    """`python -m kfp_pipelines.local VARIANT ROOT ARGUMENTS`: the process that `run` starts."""
    from kfp import local

    from kfp_pipelines.pipeline import VARIANTS
    from kfp_pipelines.profiles import Profiles

    variant, root, arguments = sys.argv[1:]
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    try:
        VARIANTS[variant](Profiles())(**json.loads(arguments))
    except RuntimeError as error:  # says only which stage failed; the stage's own words are above
        print(f"({error})")
        sys.exit(1)


if __name__ == "__main__":
    main()
