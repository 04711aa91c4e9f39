"""What a person sees of a training run: a bar on a terminal, lines in a log, and a loss curve afterwards."""

import csv
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 3.0


class TrainingError(Exception):
    """Training cannot go on; the message says at which step and what to try."""


class ProgressReport(Callback):
    """Shows step, loss and speed; stops at a loss that is not a number."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.losses: list[float] = []
        self._began = time.monotonic()
        self._said = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, disable=not sys.stdout.isatty())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._bar.start()
        self._task = self._bar.add_task("training", total=self.steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step is done."""
        loss = float(trainer.callback_metrics["loss"])
        self.losses.append(loss)
        step = len(self.losses)
        if not math.isfinite(loss):
            raise TrainingError(f"step {step}: the loss is {loss}; try a smaller optimiser.learning_rate")
        self._bar.update(self._task, completed=step, description=f"loss {loss:.4f}")
        now = time.monotonic()
        if not sys.stdout.isatty() and (now - self._said > LINE_EVERY_S or step == self.steps):
            print(f"step {step}/{self.steps}  loss {loss:.4f}  {step / (now - self._began):.1f} steps/s", flush=True)
            self._said = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End of the run."""
        self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The terminal is given back whatever happens."""
        self._bar.stop()

    def write(self, folder: Path) -> None:
        """losses.csv and loss.png."""
        with (folder / "losses.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *enumerate(self.losses, start=1)])
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
        losses = torch.tensor(self.losses)
        axes.plot(range(1, len(losses) + 1), losses, alpha=0.3, linewidth=0.8)
        window = max(1, len(losses) // 50)
        smooth = losses.unfold(0, window, 1).mean(1)
        axes.plot(range(window, len(losses) + 1), smooth, label=f"mean of {window} steps")
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        axes.legend()
        figure.savefig(folder / "loss.png", dpi=120)
        pyplot.close(figure)
