"""What a training run shows and records: a bar on a terminal, plain lines in a log, every loss in a CSV file."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from training.experiment import Diverged

LINE_SECONDS = 5.0
READ_EVERY = 20  # steps; reading a loss makes a GPU wait, so it is not done at each


class ProgressReport(Callback):
    """Records every step's loss terms in `losses.csv`, shows the latest, stops a run whose loss is not finite."""

    def __init__(self, steps: int, table: Path, console: Console | None = None) -> None:
        self.steps, self.table = steps, table
        self.console = Console() if console is None else console
        self.unread: list[tuple[int, dict[str, Tensor]]] = []
        self.losses: list[float] = []
        self.began = self.next_line = time.monotonic()
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock, the table and the bar."""
        self.began = time.monotonic()
        self.next_line = self.began + LINE_SECONDS
        self.table.unlink(missing_ok=True)
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self.task = self.bar.add_task("training", total=self.steps)
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the terms of the step; read them now and then. Raises Diverged."""
        step = batch_idx + 1
        self.unread.append((step, dict(outputs)))
        if step % READ_EVERY == 0 or step == self.steps or module.device.type == "cpu":
            self._read()
            self._show(step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the bar down."""
        if self.bar is not None:
            self.bar.stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Take the bar down before the error is told."""
        if self.bar is not None:
            self.bar.stop()

    def _read(self) -> None:
        if not self.unread:
            return
        names = list(self.unread[0][1])
        values = torch.stack([torch.stack([terms[n].float() for n in names]) for _, terms in self.unread]).tolist()
        with self.table.open("a", newline="") as file:
            writer = csv.writer(file)
            if not self.losses:
                writer.writerow(["step", *names])
            for (step, _), row in zip(self.unread, values, strict=True):
                writer.writerow([step, *(f"{value:.6g}" for value in row)])
        steps, self.unread = [step for step, _ in self.unread], []
        for step, row in zip(steps, values, strict=True):
            loss = row[names.index("loss")]
            if not math.isfinite(loss):
                raise Diverged(f"The loss became {loss} at step {step}; lower optimiser.learning_rate")
            self.losses.append(loss)

    def _show(self, step: int) -> None:
        now = time.monotonic()
        recent = self.losses[-50:]
        loss = sum(recent) / len(recent)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=f"loss {loss:.4f}")
        elif now >= self.next_line or step == self.steps:
            elapsed = now - self.began
            left = elapsed / step * (self.steps - step)
            print(f"step {step}/{self.steps}  loss {loss:.4f}  {elapsed:.0f} s, {left:.0f} s to go", flush=True)
            self.next_line = now + max(LINE_SECONDS, elapsed / 100)  # a long run does not fill its log


def draw(losses: list[float], path: Path) -> None:
    """The loss over the steps, each and as a running mean, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    running, mean = [], losses[0]
    for loss in losses:
        mean = 0.95 * mean + 0.05 * loss
        running.append(mean)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log" if min(losses) > 0 else "linear")
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color="lightgrey", linewidth=0.8, label="each step")
    axes.plot(steps, running, label="running mean")
    axes.legend()
    figure.savefig(path, dpi=100)
