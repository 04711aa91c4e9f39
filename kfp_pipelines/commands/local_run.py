"""Runs a pipeline on this machine and shows its progress on the terminal."""

import os
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kfp_pipelines import events
from kfp_pipelines.running import local
from services.local_stack.state import ROOT_VARIABLE, stack_root

NOTHING: Mapping[str, float] = MappingProxyType({})


def run_here(
    variant: str, arguments: dict[str, Any], console: Console, *, expected: Mapping[str, float] = NOTHING
) -> None:
    """Run a pipeline on this machine against the local stack. Raises PipelineError.

    expected: seconds that each task should take; with them, the end of the whole is shown.
    """
    environment = {**os.environ, ROOT_VARIABLE: str(stack_root())}  # absolute, because stages run in other folders
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        display = Display(progress, expected)
        local.run(variant, arguments, stack_root() / "pipeline", environment=environment, on_event=display.show)
        display.end_stage()


class Display:
    """A line for each stage that ended, its messages below it, and a spinner for the stage that runs."""

    def __init__(self, progress: Progress, expected: Mapping[str, float] = NOTHING) -> None:
        self.progress, self.end = progress, ExpectedEnd(expected)
        self.bar = progress.add_task("starting the pipeline")
        self.stage: str | None = None
        self.began = time.monotonic()

    def show(self, event: events.Event) -> None:
        """Show an event. Errors are left to PipelineError."""
        match event:
            case events.StageStarted(name):
                self.end_stage()
                self.stage = name
                self.end.begin(name)
                self.progress.reset(self.bar)
                self.progress.update(self.bar, description=f"{name}  {self.end}")
            case events.Progress(step, steps, text):
                self.end.advance(step, steps)
                self.progress.update(self.bar, description=f"{self.stage}  step {step}/{steps}  {text}  {self.end}")
            case events.Message(text):
                for line in text.splitlines():
                    self.progress.console.print(f"    {line}", markup=False)

    def end_stage(self) -> None:
        """Show how long the stage took."""
        if self.stage is not None:
            self.progress.console.print(f"  {self.stage:24}{time.monotonic() - self.began:7.1f} s")
        self.began = time.monotonic()


class ExpectedEnd:
    """When all tasks will have ended: the task that runs at its own pace, and the later ones as expected."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.waiting = dict(expected)
        self.task_ends = time.monotonic()
        self.first: tuple[int, float] | None = None  # the first step that was seen, and when

    def begin(self, task: str) -> None:
        """Note that a task began; it takes the time that is expected of it."""
        self.task_ends = time.monotonic() + self.waiting.pop(task, 0.0)
        self.first = None

    def advance(self, step: int, steps: int) -> None:
        """Note how far the task is: the rest takes as long for each step as those that were seen."""
        now = time.monotonic()
        if self.first is None or step <= self.first[0]:
            self.first = step, now
            return
        self.task_ends = now + (now - self.first[1]) / (step - self.first[0]) * (steps - step)

    def seconds(self) -> float:
        """Return the seconds until the end."""
        return max(0.0, self.task_ends - time.monotonic()) + sum(self.waiting.values())

    def __str__(self) -> str:
        if not self.waiting:
            return ""
        return f"ends about {datetime.now() + timedelta(seconds=self.seconds()):%H:%M:%S}"
