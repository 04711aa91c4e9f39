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

from kfp_pipelines.build import IMAGE_VARIABLE, image
from kfp_pipelines.running.data_version import digest
from training.errors import DarkroomError

WORDS = re.compile(r"^\s*(?P<kind>(\w+\.)*\w*(Error|Exception))(: (?P<message>.*))?$")  # a traceback's last line
ANSI = re.compile(r"\x1b\[[0-9;]*m")
TASK = re.compile(r"Executing task '(?P<name>[^']+)'")
FAILED = re.compile(r"Task '(?P<name>[^']+)' finished with status FAILURE")
SILENT = "it ended without a word, as a process does that is killed; was there enough memory? Run the same again"


class PipelineError(DarkroomError):
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
    command = [
        sys.executable,
        "-m",
        "kfp_pipelines.running.local",
        variant,
        str(pipeline_root),
        json.dumps(dict(arguments)),
    ]
    stage, words, failed = "the pipeline", SILENT, ""
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", IMAGE_VARIABLE: f"darkroom-here:{source()}"},
        ) as process,
    ):
        assert process.stdout is not None
        for raw in process.stdout:
            line = ANSI.sub("", raw.rstrip())
            file.write(line + "\n")
            file.flush()
            if match := TASK.search(line):
                stage, words = match["name"], SILENT
                on_stage(stage)
            elif match := FAILED.search(line):  # later stages may still run: the one that tells the end
                failed = failed or f"{match['name']}: {words}"
            elif match := WORDS.match(line):
                words = match["message"] or match["kind"]
            on_line(line)
    if process.returncode:
        raise PipelineError(f"{failed or f'{stage}: {words}'}\nThe whole log is in {log}")


def source() -> str:
    """Stands for an image's digest: what stages made by other code is not taken from the cache."""
    project = Path(__file__).parents[2]
    packages = ("kfp_pipelines", "services", "training")
    paths = sorted(path for package in packages for path in (project / package).rglob("*.py"))
    return digest(f"{path.relative_to(project)}\0{path.read_text()}" for path in paths)


def main() -> None:
    """`python -m kfp_pipelines.running.local VARIANT ROOT ARGUMENTS`: the process that `run` starts."""
    from kfp import local

    from kfp_pipelines.definition.pipeline import VARIANTS
    from kfp_pipelines.definition.placement import Stages

    variant, root, arguments = sys.argv[1:]
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=root, raise_on_error=True, enable_caching=True)
    try:
        VARIANTS[variant].define(Stages(image=image()))(**json.loads(arguments))
    except RuntimeError as error:  # says only which stage failed; the stage's own words are above
        print(f"({error})")
        sys.exit(1)


if __name__ == "__main__":
    main()
