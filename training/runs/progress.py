"""The progress of a training run: a bar on a terminal, plain lines in a log, every step in a CSV file, curves as a
PNG and in loggers.
"""

import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from training.lightning import Callback, LightningModule, Trainer
from training.runs.errors import CURE, Diverged
from training.runs.trackers import Trackers

LINE_SECONDS = 5.0
READ_EVERY = 20  # steps; reading a loss makes the GPU wait
RECENT = 50  # steps whose mean loss is shown
DRAW_SECONDS = 30.0  # between two drawings of the curves; one takes as long as several steps of a small model

Rows = list[dict[str, float]]


class ProgressReport(Callback):
    """Records every step's terms in `losses.csv`, shows the latest, and stops a run whose loss is not finite.

    Only the first rank writes. A resumed run keeps the rows of the steps before `start`.
    """

    def __init__(
        self,
        steps: int,
        folder: Path,
        *,
        start: int = 0,
        console: Console | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.steps, self.start, self.folder = steps, start, folder
        self.trackers = trackers or Trackers(folder, start=start)
        self.writes = False  # only on the first rank
        self.table = folder / "losses.csv"
        self.console = Console() if console is None else console
        self.unread: list[tuple[int, dict[str, Tensor]]] = []
        self.rows: Rows = []
        self.began = self.next_line = self.next_drawing = time.monotonic()
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock, the table and the bar."""
        self.began = time.monotonic()
        self.next_line = self.began + LINE_SECONDS
        self.next_drawing = self.began + DRAW_SECONDS
        if not trainer.is_global_zero:
            return
        self.rows, self.writes = self.earlier_rows(), True
        write_table(self.table, self.rows)
        self.trackers.open()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self.task = self.bar.add_task("training", total=self.steps, completed=self.start)
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the terms of the step, and read them every few steps. Raises Diverged."""
        step = self.start + batch_idx + 1
        self.unread.append((step, dict(outputs)))
        if step % READ_EVERY == 0 or step == self.steps or module.device.type == "cpu":
            self.read()
            if trainer.is_global_zero:
                self._show(step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Remove the bar and draw the curves."""
        self._stop(failed=False)
        if trainer.is_global_zero:
            self.draw(at_once=True)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Remove the bar before the error is printed."""
        self._stop(failed=True)

    def read(self) -> None:
        """Append the terms of all steps so far to the table. Raises Diverged."""
        if not self.unread:
            return
        names = list(self.unread[0][1])
        values = torch.stack([torch.stack([terms[n].float() for n in names]) for _, terms in self.unread]).tolist()
        fresh = [
            {"step": float(step), **dict(zip(names, row, strict=True))}
            for (step, _), row in zip(self.unread, values, strict=True)
        ]
        self.unread = []
        self.rows += fresh
        if self.writes:
            write_table(self.table, fresh, append=len(self.rows) > len(fresh))
            for row in fresh:
                step = int(row["step"])
                self.trackers.log_training({name: row[name] for name in names}, step, last=step == self.steps)
        for row in fresh:
            if not math.isfinite(row["loss"]):
                raise Diverged(f"The loss became {row['loss']} at step {row['step']:.0f}. {CURE}")

    def earlier_rows(self) -> Rows:
        """Return the rows of the steps before `start`."""
        return [row for row in read_table(self.table) if row["step"] <= self.start]

    def loss(self) -> float | None:
        """Return the mean loss of the last steps; None if no step was taken and the table is missing."""
        recent = self.rows[-RECENT:]
        return sum(row["loss"] for row in recent) / len(recent) if recent else None

    def draw(self, *, at_once: bool = False) -> None:
        """Draw the curves so far as `loss.png`, unless they were drawn a moment ago and `at_once` is False."""
        now = time.monotonic()
        if at_once or now >= self.next_drawing:
            draw(self.rows, self.folder / "loss.png")
            self.next_drawing = now + DRAW_SECONDS

    def _stop(self, *, failed: bool) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.trackers.close(failed=failed)

    def _show(self, step: int) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=f"loss {self.loss():.4f}")
        elif now >= self.next_line or step == self.steps:
            elapsed = now - self.began
            left = elapsed / (step - self.start) * (self.steps - step)
            print(f"step {step}/{self.steps}  loss {self.loss():.4f}  {elapsed:.0f} s, {left:.0f} s to go", flush=True)
            self.next_line = now + max(LINE_SECONDS, elapsed / 100)  # a long run prints fewer lines


def read_table(path: Path) -> Rows:
    """Return the rows of `losses.csv`, without a last line that was cut off."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    return [
        {name: float(value) for name, value in zip(lines[0], line, strict=True)}
        for line in lines[1:]
        if len(line) == len(lines[0]) and all(line)
    ]


def write_table(path: Path, rows: Rows, *, append: bool = False) -> None:
    """Write rows as CSV, or append them."""
    if not rows:
        if not append:
            path.unlink(missing_ok=True)
        return
    with path.open("a" if append else "w", newline="") as file:
        writer = csv.writer(file)
        if not append:
            writer.writerow(rows[0])
        for row in rows:
            writer.writerow([f"{value:.0f}" if name == "step" else f"{value:.6g}" for name, value in row.items()])


MARGINS = {"left": 0.13, "right": 0.98, "top": 0.97, "bottom": 0.1, "hspace": 0.08}  # of the curves


def draw(rows: Rows, path: Path) -> None:
    """Draw the loss of each step, its running mean and the learning rate as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    running, mean = [], losses[0]
    share = max(0.05, min(0.5, 10 / len(losses)))
    for loss in losses:
        mean = (1 - share) * mean + share * loss
        running.append(mean)
    figure = Figure(figsize=(7, 5))  # with margins of its own: a layout engine takes longer than the drawing
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1), gridspec_kw=MARGINS)
    upper.set(ylabel="loss", yscale="log" if min(losses) > 0 else "linear")
    upper.plot(steps, losses, color="lightgrey", linewidth=0.8, label="each step")
    upper.plot(steps, running, label="running mean")
    upper.legend()
    lower.set(xlabel="step", ylabel="learning rate")
    lower.plot(steps, [row["learning_rate"] for row in rows])
    figure.savefig(path, dpi=100)
