"""Running a recipe under Lightning's trainer: devices, precision, checkpoints, pictures, and going on after a death."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from training import checkpoints
from training.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from training.data.batches import Batches, as_it_is
from training.experiment import CURE, CheckpointConfig, Diverged, Experiment, ExperimentError, Interrupted, plain
from training.progress import ProgressReport
from training.recipes.recipe import Recipe
from training.run_identity import Run

Stores = Callable[[Run], AbstractContextManager[CheckpointStore]]  # opens where the checkpoints of a run are kept
Pictures = Callable[[Path], Mapping[str, Any]]  # writes its pictures into a folder; they are shown in TensorBoard too


def fit(
    recipe: Recipe,
    batches: Callable[[int, int], Batches],
    config: Experiment,
    run: Run,
    *,
    store: CheckpointStore,
    pictures: Pictures,
) -> ProgressReport | None:
    """Take the steps that are left. Returns the report on the first rank, None on the others.

    batches: of (rank, ranks). store: where checkpoints go and where the run goes on from.
    Raises ExperimentError, CheckpointError, Diverged or Interrupted.
    """
    output = Path(config.output)
    latest = checkpoint_of(config, run, store)
    (output / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
    start = 0 if latest is None else latest.step
    report = ProgressReport(config.steps, output, start=start)
    saver = Saver(store, config.checkpoint, run, report, latest)
    shown = Shown(pictures, config.pictures_every or max(1, config.steps // 10), output / "pictures", report)
    if latest is None and config.initial is not None:
        try:
            recipe.initial_from(Path(config.initial))
        except ValueError as error:
            raise ExperimentError(str(error)) from None
    if latest is not None:
        print(f"going on from step {start} of {config.steps}", flush=True)
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # device lists and tips
    with warnings.catch_warnings():
        # what it warns of is on purpose: no workers for what is in memory, one endless epoch
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            **hardware(config),
            max_epochs=1,
            callbacks=[report, saver, shown],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        data = batches(trainer.global_rank, trainer.world_size)
        if start < config.steps:
            workers = config.data.workers
            loader = DataLoader(
                data, batch_size=None, sampler=range(start, config.steps), collate_fn=as_it_is, num_workers=workers,
                pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
            )  # fmt: skip
            with saver.stopping_softly():
                trainer.fit(recipe, loader)
        elif latest is not None:  # it died after its last step
            checkpoints.restore_weights(recipe, latest)
            report.rows = report.kept()
    return report if trainer.is_global_zero else None


def checkpoint_of(config: Experiment, run: Run, store: CheckpointStore) -> Checkpoint | None:
    """Where the run goes on from, None for the beginning. Raises ExperimentError for another experiment's."""
    if config.resume is False:
        store.clear()
        return None
    latest = store.latest()
    if latest is not None and config.resume != "anyway":
        run.check(latest)
    return latest


def hardware(config: Experiment) -> dict[str, Any]:
    """The trainer's arguments for the configured devices and precision. Raises ExperimentError."""
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ExperimentError(
            "device: cuda was asked for, and this machine has no usable GPU; permitted here: auto, cpu"
        )
    on_gpu = cuda and config.device != "cpu"
    nodes, devices = placed(config)
    if on_gpu and devices > torch.cuda.device_count():
        raise ExperimentError(f"devices: {devices} are asked for; permitted here: 1 to {torch.cuda.device_count()}")
    precision = config.precision if config.precision != "auto" else "bf16" if on_gpu else "fp32"
    strategy: Any = "auto"
    if nodes * devices > 1:  # two networks take turns, so in each turn the other's parameters are unused
        strategy = DDPStrategy(find_unused_parameters=config.recipe == "autoencoder")
    return {
        "accelerator": "cuda" if on_gpu else "cpu",
        "devices": devices,
        "num_nodes": nodes,
        "strategy": strategy,
        "sync_batchnorm": on_gpu and nodes * devices > 1,
        "precision": "bf16-mixed" if precision == "bf16" else "32-true",
    }


def placed(config: Experiment) -> tuple[int, int]:
    """Nodes, and devices of each: torchrun's where it has started this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1, config.devices
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ["WORLD_SIZE"]) // here, here


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
            checkpoints.restore(module, self.latest)
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
                self.store.save(module.step, finite(checkpoints.state_of(module), module.step), self.run.__dict__)
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
