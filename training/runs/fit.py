"""Runs a recipe under Lightning's trainer: devices, precision, checkpoints, previews, and resuming after a crash."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader

from training.data.batches import Batches, Read, keep_batch
from training.data.bucket_batches import BucketBatches, WholeRows
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.rows import ImageRows
from training.experiments.schema import Experiment, ExperimentError, to_plain
from training.lightning import DDPStrategy, Trainer
from training.model.interop.sources import open_release
from training.recipes.recipe import Recipe
from training.runs import recipe_state
from training.runs.callbacks import CheckpointSaver, DrawPreviews, PreviewDrawer
from training.runs.checkpoints import Checkpoint, CheckpointStore
from training.runs.held_out import HeldOutJudge
from training.runs.identity import Run
from training.runs.progress import ProgressReport
from training.runs.trackers import Trackers, names_of


def build_batches(config: Experiment, images: ImageSet, read: Read, rank: int = 0, ranks: int = 1) -> Batches:
    """Return the batches of one rank, each read by `read`. Raises ValueError naming the field that is not allowed."""
    count, about = len(images.rows("train")), {"batch_size": config.batch_size, "seed": config.seed}
    if images.whole is not None:
        buckets = images.whole.bucket[:count]
        return BucketBatches(read, buckets, **about, steps=config.steps, rank=rank, ranks=ranks)
    return Batches(read, count=count, **about, steps=config.steps, rank=rank, ranks=ranks)


def image_rows(config: Experiment, images: ImageSet, requests: Requests | None = None) -> ImageRows | WholeRows:
    """Return the reader of batches of images."""
    if images.whole is not None:
        return WholeRows(images, flip=config.data.flip, requests=requests)
    return ImageRows(images, flip=config.data.flip, crop=config.data.crop, requests=requests)


def fit(
    recipe: Recipe,
    batches: Callable[[int, int], Batches],
    config: Experiment,
    run: Run,
    *,
    store: CheckpointStore,
    draw_previews: DrawPreviews,
    judge: HeldOutJudge | None = None,
) -> ProgressReport | None:
    """Take the remaining steps. Returns the report on the first rank, None on the others.

    batches: returns the batches of (rank, ranks). store: where checkpoints are saved, and from where the run resumes.
    judge: may end the run before its last step.
    Raises ExperimentError, CheckpointError, Diverged or Interrupted.
    """
    output = Path(config.output)
    latest = find_checkpoint(config, run, store)
    (output / "config.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    start = 0 if latest is None else latest.step
    ids = {} if latest is None else latest.run.get("trackers", {})
    tracked = Trackers(output, names_of(config), start=start, config=config, ids=ids)
    report = ProgressReport(config.steps, output, start=start, trackers=tracked)
    saver = CheckpointSaver(store, config.checkpoint, run, report, latest, judge)
    every = config.pictures_every or max(1, config.steps // 10)
    previews = PreviewDrawer(draw_previews, every, output / "pictures", report)
    if latest is None and config.initial is not None:
        try:
            with open_release(Path(config.initial)) as folder:
                recipe.load_initial(folder)
        except ValueError as error:
            raise ExperimentError(str(error)) from None
    has_ended = start == config.steps
    if latest is not None:
        if judge is not None:
            judge.load(recipe_state.read_tensors(latest))
            has_ended = has_ended or judge.stopped
        print(f"resuming from step {start} of {config.steps}", flush=True)
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # hides device lists and tips
    with warnings.catch_warnings():
        # Lightning warns of what is intended: no workers for data in memory, and one endless epoch.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            **trainer_options(config),
            max_epochs=1,
            callbacks=[report, *([judge] if judge else []), saver, previews],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        data = batches(trainer.global_rank, trainer.world_size)
        if not has_ended:
            workers = config.data.workers
            loader = DataLoader(
                data, batch_size=None, sampler=range(start, config.steps), collate_fn=keep_batch, num_workers=workers,
                pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
            )  # fmt: skip
            with saver.catch_stop_signals():
                trainer.fit(recipe, loader)
        elif latest is not None:  # the earlier run died after its last step, before it wrote the release
            recipe_state.restore_weights(recipe, latest)
            report.rows = report.earlier_rows()
    return report if trainer.is_global_zero else None


def find_checkpoint(config: Experiment, run: Run, store: CheckpointStore) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None to start at the first step.

    Raises ExperimentError if the checkpoint belongs to another experiment, CheckpointError if it is damaged.
    """
    if config.resume is False:
        store.clear()
        return None
    latest = store.latest()
    if latest is not None and config.resume != "anyway":
        changes = run.changes_since(latest.run)
        if changes:
            raise ExperimentError(
                f"output: {latest.folder.parent.parent} holds a run of another experiment at step {latest.step}: "
                f"{', '.join(changes)}. Give another output, resume=anyway to resume from that step with the changes, "
                "or resume=false to restart"
            )
    return latest


def trainer_options(config: Experiment) -> dict[str, Any]:
    """Return the Trainer's arguments for the configured devices and precision. Raises ExperimentError."""
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ExperimentError(
            "device: cuda is not available, this machine has no usable GPU; permitted here: auto, cpu"
        )
    on_gpu = cuda and config.device != "cpu"
    nodes, devices = count_devices(config)
    if on_gpu and devices > torch.cuda.device_count():
        raise ExperimentError(f"devices: {devices} is not allowed; permitted here: 1 to {torch.cuda.device_count()}")
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


def count_devices(config: Experiment) -> tuple[int, int]:
    """Return the number of nodes and the devices per node: torchrun's if torchrun started this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1, config.devices
    per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ["WORLD_SIZE"]) // per_node, per_node
