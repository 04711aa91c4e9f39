"""Runs a pipeline on this machine with `kfp.local`: each stage is a process of this Python.

KFP's local runner patches `print` and the root logger, and reports failures only on standard output. It therefore runs
in a process of its own, `kfp_pipelines.running.local_process`, whose output this module reads as events.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfp_pipelines.build import IMAGE_VARIABLE
from kfp_pipelines.events import Event, StageError, StageFailed, StageStarted
from kfp_pipelines.running.data_version import digest
from kfp_pipelines.running.lines import read_event, strip_colours
from training.errors import DarkroomError

NO_ERROR = (
    "it exited without an error message; it may have been killed (out of memory?). Run the same command again to resume"
)


class PipelineError(DarkroomError):
    """A stage failed; the message holds its error and the path of the log."""


def run(
    variant: str,
    arguments: Mapping[str, Any],
    pipeline_root: Path,
    *,
    environment: Mapping[str, str],
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Run a pipeline; its artifacts and pipeline.log are stored under `pipeline_root`.

    environment: of the stages. on_event: called with each event. Raises PipelineError.
    """
    pipeline_root.mkdir(parents=True, exist_ok=True)
    log = pipeline_root / "pipeline.log"
    command = [sys.executable, "-m", "kfp_pipelines.running.local_process", variant, str(pipeline_root)]
    stage, error, failure = "the pipeline", NO_ERROR, ""
    with (
        log.open("w") as file,
        subprocess.Popen(
            [*command, json.dumps(dict(arguments))],
            stdin=subprocess.PIPE,  # stages end when it is closed, as it is if this process is killed
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "PYTHONUNBUFFERED": "1", IMAGE_VARIABLE: f"darkroom-here:{source_digest()}"},
        ) as process,
    ):
        assert process.stdout is not None
        for raw in process.stdout:
            line = strip_colours(raw)
            file.write(line + "\n")
            file.flush()
            event = read_event(line)
            match event:
                case StageStarted(name):
                    stage, error = name, NO_ERROR
                case StageError(message):
                    error = message
                case StageFailed(name):  # the stage that reports the end may still run
                    failure = failure or f"{name}: {error}"
            if event is not None:
                on_event(event)
    if process.returncode:
        raise PipelineError(f"{failure or f'{stage}: {error}'}\nThe whole log is in {log}")


def source_digest() -> str:
    """Return the sha256 of this project's code, in place of an image's digest: other code does not share the cache."""
    project = Path(__file__).parents[2]
    packages = ("kfp_pipelines", "services", "training")
    paths = sorted(path for package in packages for path in (project / package).rglob("*.py"))
    return digest(f"{path.relative_to(project)}\0{path.read_text()}" for path in paths)
