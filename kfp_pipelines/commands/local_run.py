"""Runs a pipeline on this machine and shows its progress on the terminal."""

import os
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kfp_pipelines import events
from kfp_pipelines.commands.expected_end import ExpectedEnd
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
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            display = Display(progress, expected)
            local.run(variant, arguments, stack_root() / "pipeline", environment=environment, on_event=display.show)
            display.end_stage()
    except KeyboardInterrupt:
        console.print("Interrupted. Run the same command again to resume.")
        raise


class Display:
    """A line for each stage that ended, its messages below it, and a spinner for the stage that runs."""

    def __init__(self, progress: Progress, expected: Mapping[str, float] = NOTHING) -> None:
        self.progress, self.end = progress, ExpectedEnd(expected)
        if expected:
            self.end.announce()  # the caller printed it
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
                self.tell_if_moved()
                self.progress.update(self.bar, description=f"{self.stage}  step {step}/{steps}  {text}  {self.end}")
            case events.Message(text):
                for line in text.splitlines():
                    self.progress.console.print(f"    {line}", markup=False)

    def end_stage(self) -> None:
        """Show how long the stage took."""
        if self.stage is not None:
            self.progress.console.print(f"  {self.stage:24}{time.monotonic() - self.began:7.1f} s")
            self.end.end_task()
            self.tell_if_moved()
        self.began = time.monotonic()

    def tell_if_moved(self) -> None:
        """Show the end again if what was measured has moved it."""
        if self.end.has_moved():
            self.progress.console.print(f"  now {self.end.announce()}", markup=False)
