"""Lightning callbacks of a run: checkpoints, signals, pictures."""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from training.experiments.schema import CheckpointConfig
from training.recipes.recipe import Recipe
from training.runs import recipe_state
from training.runs.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from training.runs.errors import CURE, Diverged, Interrupted
from training.runs.identity import Run
from training.runs.progress import ProgressReport

Pictures = Callable[[Path], Mapping[str, Any]]  # writes its pictures into a folder; they are shown in TensorBoard too


class Saver(Callback):
    """Restores a checkpoint before the first step, saves one on a timer, after the last step and when told to stop."""

    def __init__(
        self,
        store: CheckpointStore,
        config: CheckpointConfig,
        run: Run,
        report: ProgressReport,
        latest: Checkpoint | None,
    ) -> None:
        self.store, self.config, self.run, self.report, self.latest = store, config, run, report, latest
        self.saved_at = time.monotonic()
        self.signal: int | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Every rank reads the same checkpoint."""
        assert isinstance(module, Recipe)
        begins = torch.tensor(0 if self.latest is None else self.latest.step, device=module.device)
        if int(begins) * trainer.world_size != int(trainer.strategy.reduce(begins, reduce_op="sum")):
            raise CheckpointError(f"rank {trainer.global_rank} found step {int(begins)}, others found another: "
                                  "the ranks of a run need one place for its checkpoints")  # fmt: skip
        if self.latest is not None:
            recipe_state.restore(module, self.latest)
        self.saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        """Save where it is time to. Raises CheckpointError or Interrupted."""
        assert isinstance(module, Recipe)
        stop = self.signal is not None
        if trainer.is_global_zero:
            every = self.config.every_steps
            timer = time.monotonic() - self.saved_at >= 60 * self.config.every_minutes
            if stop or timer or module.step == module.steps or (every is not None and module.step % every == 0):
                self.report.read()  # a loss that is not finite is told before it is saved
                self.store.save(module.step, finite(recipe_state.state_of(module), module.step), self.run.__dict__)
                self.report.draw()
                self.saved_at = time.monotonic()
        if stop:
            raise Interrupted(f"stopped at step {module.step} of {module.steps}, which is saved; "
                              "run the same command to go on")  # fmt: skip

    def stopping_softly(self) -> "Signals":
        """Within it, SIGTERM and SIGINT end the run after the step that is being taken."""
        return Signals(self)


def finite(state: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    """The state. Raises Diverged where a weight is no number any more: it would replace a good checkpoint."""
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise Diverged(f"{name.removeprefix('recipe.')} is no finite number after step {step}. {CURE}")
    return state


class Signals:
    """Keeps the first SIGTERM or SIGINT for the saver; a second one acts as it did before."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        with suppress(ValueError):  # not in the main thread: there are no signals to hear
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self.hear)

    def __exit__(self, *rest: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note the signal."""
        self.saver.signal = number
        signal.signal(number, self.before[number])


class Shown(Callback):
    """Draws pictures of the present state now and then, as `pictures/step-00000500-NAME.png`."""

    def __init__(self, pictures: Pictures, every: int, folder: Path, report: ProgressReport) -> None:
        self.pictures, self.every, self.folder, self.report = pictures, every, folder, report

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        """Only on the first rank; the other ranks wait at the next step."""
        assert isinstance(module, Recipe)
        if trainer.is_global_zero and module.step % self.every == 0 and module.step < module.steps:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, image in self.pictures(self.folder / f"step-{module.step:08d}").items():
                self.report.board.add_image(name, image, module.step, dataformats="HWC")
