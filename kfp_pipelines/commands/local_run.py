"""Runs a pipeline on this machine and shows its progress on the terminal."""

import os
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kfp_pipelines import events
from kfp_pipelines.running import local
from services.local_stack.state import ROOT_VARIABLE, stack_root


def run_here(variant: str, arguments: dict[str, Any], console: Console) -> None:
    """Run a pipeline on this machine against the local stack. Raises PipelineError."""
    environment = {**os.environ, ROOT_VARIABLE: str(stack_root())}  # absolute, because stages run in other folders
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        display = Display(progress)
        local.run(variant, arguments, stack_root() / "pipeline", environment=environment, on_event=display.show)
        display.end_stage()


class Display:
    """A line for each stage that ended, its messages below it, and a spinner for the stage that runs."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bar = progress.add_task("starting the pipeline")
        self.stage: str | None = None
        self.began = time.monotonic()

    def show(self, event: events.Event) -> None:
        """Show an event. Errors are left to PipelineError."""
        match event:
            case events.StageStarted(name):
                self.end_stage()
                self.stage = name
                self.progress.reset(self.bar)
                self.progress.update(self.bar, description=name)
            case events.Progress(step, steps, text):
                self.progress.update(self.bar, description=f"{self.stage}  step {step}/{steps}  {text}")
            case events.Message(text):
                for line in text.splitlines():
                    self.progress.console.print(f"    {line}", markup=False)

    def end_stage(self) -> None:
        """Show how long the stage took."""
        if self.stage is not None:
            self.progress.console.print(f"  {self.stage:24}{time.monotonic() - self.began:7.1f} s")
        self.began = time.monotonic()
