"""Running a recipe under Lightning's trainer: devices, precision, checkpoints, pictures, and going on after a death."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from training.data.batches import Batches, keep_batch
from training.experiments.schema import Experiment, ExperimentError, plain
from training.recipes.recipe import Recipe
from training.runs import recipe_state
from training.runs.callbacks import Pictures, Saver, Shown
from training.runs.checkpoints import Checkpoint, CheckpointStore
from training.runs.identity import Run
from training.runs.progress import ProgressReport


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
                data, batch_size=None, sampler=range(start, config.steps), collate_fn=keep_batch, num_workers=workers,
                pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
            )  # fmt: skip
            with saver.stopping_softly():
                trainer.fit(recipe, loader)
        elif latest is not None:  # it died after its last step
            recipe_state.restore_weights(recipe, latest)
            report.rows = report.kept()
    return report if trainer.is_global_zero else None


def checkpoint_of(config: Experiment, run: Run, store: CheckpointStore) -> Checkpoint | None:
    """Where the run goes on from, None for the beginning. Raises ExperimentError for another experiment's."""
    if config.resume is False:
        store.clear()
        return None
    latest = store.latest()
    if latest is not None and config.resume != "anyway":
        changes = run.changes_since(latest.run)
        if changes:
            raise ExperimentError(
                f"output: {latest.folder.parent.parent} holds a run of another experiment at step {latest.step}: "
                f"{', '.join(changes)}. Give another output, resume=anyway to go on from that step with the changes, "
                "or resume=false to begin again"
            )
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
