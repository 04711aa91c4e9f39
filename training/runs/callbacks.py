"""The Lightning callbacks of a run: saving checkpoints, stopping on a signal, drawing previews."""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.experiments.schema import CheckpointConfig
from training.lightning import Callback, LightningModule, Trainer
from training.recipes.recipe import Recipe
from training.runs import recipe_state
from training.runs.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from training.runs.errors import CURE, Diverged, Interrupted
from training.runs.held_out import HeldOutJudge
from training.runs.identity import Run
from training.runs.progress import ProgressReport

Previews = Mapping[str, NDArray[np.uint8]]  # images [height, width, C] by name
DrawPreviews = Callable[[Path], Previews]  # writes PATH-NAME.png for each preview, and returns them for TensorBoard


class CheckpointSaver(Callback):
    """Restores a checkpoint before the first step; saves one on a timer, after the last step and on a signal."""

    def __init__(
        self,
        store: CheckpointStore,
        config: CheckpointConfig,
        run: Run,
        report: ProgressReport,
        latest: Checkpoint | None,
        judge: HeldOutJudge | None = None,
    ) -> None:
        self.store, self.config, self.run, self.report, self.latest = store, config, run, report, latest
        self.judge = judge
        self.saved_at = time.monotonic()
        self.signal: int | None = None
        self.stop_signals = StopSignals(self)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore the checkpoint. Raises CheckpointError if the ranks found checkpoints of different steps."""
        assert isinstance(module, Recipe)
        self.stop_signals.handle_alone()
        step = torch.tensor(0 if self.latest is None else self.latest.step, device=module.device)
        if int(step) * trainer.world_size != int(trainer.strategy.reduce(step, reduce_op="sum")):
            raise CheckpointError(
                f"rank {trainer.global_rank} found the checkpoint of step {int(step)}, other ranks found another one; "
                "all ranks of a run must share one checkpoint location"
            )
        if self.latest is not None:
            tensors = recipe_state.restore(module, self.latest)
            if self.judge is not None:
                self.judge.load(tensors)
        self.saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        """Save the state if it is due. Raises CheckpointError, Diverged or Interrupted."""
        assert isinstance(module, Recipe)
        stop = self.signal is not None
        if trainer.is_global_zero:
            every = self.config.every_steps
            timer = time.monotonic() - self.saved_at >= 60 * self.config.every_minutes
            ends = module.step == module.steps or trainer.should_stop
            if stop or timer or ends or (every is not None and module.step % every == 0):
                self.report.read()  # raises Diverged before a useless state replaces a good one
                state = recipe_state.state_of(module)
                if self.judge is not None:
                    state |= self.judge.state()
                require_finite(state, module.step)
                self.store.save(module.step, state, {**self.run.__dict__, "trackers": self.report.trackers.ids})
                self.report.draw(at_once=stop)
                self.saved_at = time.monotonic()
        if stop:
            raise Interrupted(
                f"stopped at step {module.step} of {module.steps}, which is saved; run the same command to resume"
            )

    def catch_stop_signals(self) -> "StopSignals":
        """Return a context in which SIGTERM and SIGINT end the run after the current step."""
        return self.stop_signals


def require_finite(state: Mapping[str, Tensor], step: int) -> None:
    """Raise Diverged if a tensor of the state holds NaN or infinity."""
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise Diverged(f"{name.removeprefix('recipe.')} is not finite after step {step}. {CURE}")


class StopSignals:
    """Keeps the first SIGTERM or SIGINT for the saver; a second one has its former effect.

    Lightning puts a handler of its own before these. Between two steps, while previews are drawn, it would end the run
    without its state, so `handle_alone` removes it.
    """

    def __init__(self, saver: CheckpointSaver) -> None:
        self.saver = saver
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        with suppress(ValueError):  # only the main thread can handle signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self.note)

    def handle_alone(self) -> None:
        """Be the only handler of the signals again, unless one has come."""
        if self.saver.signal is None:
            for number in self.before:
                signal.signal(number, self.note)

    def __exit__(self, *rest: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note the signal."""
        self.saver.signal = number
        signal.signal(number, self.before[number])


class PreviewDrawer(Callback):
    """Draws previews of the current state every few steps, as `pictures/step-00000500-NAME.png`."""

    def __init__(self, draw_previews: DrawPreviews, every: int, folder: Path, report: ProgressReport) -> None:
        self.draw_previews, self.every, self.folder, self.report = draw_previews, every, folder, report

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        """Draw on the first rank; the other ranks wait at the next step."""
        assert isinstance(module, Recipe)
        if trainer.is_global_zero and module.step % self.every == 0 and module.step < module.steps:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, image in self.draw_previews(self.folder / f"step-{module.step:08d}").items():
                self.report.trackers.log_image(name, image, module.step)
