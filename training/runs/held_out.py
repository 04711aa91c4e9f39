"""Judges a second stage on held-out images while it trains: keeps its best weights, and stops when it gets worse."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.batches import row_generator
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.rows import ImageRows, spread
from training.experiments.schema import HeldOutConfig
from training.lightning import Callback, LightningModule, Trainer
from training.recipes.diffusion import DiffusionRecipe
from training.runs.progress import ProgressReport, read_table, write_table

MOST = 256  # held-out images that are looked at
BATCH = 32
BANDS = 4  # equal parts of the timesteps with separate losses
TABLE = "held_out.csv"
COPIES = "copies"  # the column of the share of samples that are copies
WEIGHTS, VERDICT = "best.", "held_out"  # names of tensors in a checkpoint

Losses = dict[str, float]


class HeldOutLoss:
    """The loss of the averaged weights on held-out images, with the same noise and timesteps at every call."""

    def __init__(self, recipe: DiffusionRecipe, images: ImageSet, requests: Requests) -> None:
        self.recipe = recipe
        rows = spread(images.rows("held_out"), MOST)
        batch = ImageRows(images, flip=False, crop=None, requests=requests)(
            np.asarray(rows), [row_generator(0, 0, i) for i in range(len(rows))]
        )
        self.images: Tensor = batch["image"]
        self.requests: Sequence[dict[str, Any]] = batch["requests"]
        self.moments: Tensor | None = None

    @torch.no_grad()
    def __call__(self) -> Losses:
        """Return the mean loss, and that of each band of timesteps, the least noisy first."""
        recipe, device = self.recipe, self.recipe.device
        networks = recipe.average.eval()
        if self.moments is None:
            encode = recipe.first_stage[0].moments
            parts = [torch.stack(encode(part.to(device)), 1) for part in torch.split(self.images, BATCH)]
            self.moments = torch.cat(parts)
        count, steps = len(self.moments), recipe.diffusion.config.timesteps
        eps = torch.randn(self.moments[:, 0].shape, generator=torch.Generator().manual_seed(0)).to(device)
        bands = []
        for band in range(BANDS):
            width = steps // BANDS
            t = band * width + torch.arange(count, device=device) * width // count
            parts = []
            for start in range(0, count, BATCH):
                part = slice(start, start + BATCH)
                drawn = {
                    "posterior": torch.zeros_like(eps[part]), "eps": eps[part], "t": t[part],
                    "dropped": torch.zeros(len(t[part]), dtype=torch.bool),
                }  # fmt: skip
                rows = {"moments": self.moments[part], "requests": self.requests[part]}
                parts.append(recipe.loss(rows, drawn, networks) * len(t[part]))
            bands.append(float(torch.stack(parts).sum()) / count)
        return {"loss": sum(bands) / BANDS, **{f"loss_{band + 1}_of_{BANDS}": loss for band, loss in enumerate(bands)}}


class HeldOutJudge(Callback):
    """Measures every few steps, keeps a copy of the best averaged weights, and ends a run that gets worse.

    Its state is a part of every checkpoint, so a resumed run decides the same.
    """

    def __init__(
        self, recipe: DiffusionRecipe, measure: Callable[[], Losses], config: HeldOutConfig, every: int, folder: Path
    ) -> None:
        self.recipe, self.measure, self.patience, self.every = recipe, measure, config.patience, every
        self.table = folder / TABLE
        self.most_copies = math.inf if config.copies is None else config.copies
        self.best, self.best_step, self.worse = math.inf, 0, 0  # worse: measurements since the best
        self.copied = False  # whether samples were copies of training images
        self.weights: dict[str, Tensor] = {}

    @property
    def stopped(self) -> bool:
        """Whether the run has ended before its last step."""
        return self.copied or (self.patience is not None and self.worse >= self.patience)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        """Measure on the first rank, and stop all ranks."""
        step = self.recipe.step
        if step % self.every and step != self.recipe.steps:
            return
        if trainer.is_global_zero:
            self.judge(step, self.measure(), next(c for c in trainer.callbacks if isinstance(c, ProgressReport)))  # type: ignore[attr-defined]  # of Lightning
        if trainer.strategy.reduce_boolean_decision(self.stopped, all=False):
            trainer.should_stop = True

    def judge(self, step: int, losses: Losses, report: ProgressReport) -> None:
        """Record a measurement."""
        rows = [row for row in read_table(self.table) if row["step"] < step]
        write_table(self.table, [*rows, {"step": float(step), **losses}])
        report.trackers.log({f"held_out_{name}": value for name, value in losses.items()}, step)
        if (share := losses.get(COPIES, 0.0)) > self.most_copies:
            self.copied = True
            kept = f"has the weights of step {self.best_step}" if self.weights else "has these weights"
            print(f"step {step}: {100 * share:.0f} % of the samples are copies of training images; the run ends, and "
                  f"the release {kept}", flush=True)  # fmt: skip
            return
        if losses["loss"] < self.best:
            self.best, self.best_step, self.worse = losses["loss"], step, 0
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in self._averaged().items()}
        else:
            self.worse += 1
        if self.stopped:
            print(
                f"step {step}: the held-out loss has not fallen since step {self.best_step}; the run ends", flush=True
            )

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps: the best weights and the verdict."""
        verdict = torch.tensor([self.best, self.best_step, self.worse, self.copied], dtype=torch.float64)
        finite = torch.nan_to_num(verdict, posinf=torch.finfo(torch.float64).max)
        return {**{f"{WEIGHTS}{name}": tensor for name, tensor in self.weights.items()}, VERDICT: finite}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the state of a checkpoint; one without it leaves the judge as it is."""
        if VERDICT not in tensors:
            return
        best, step, worse, *copied = tensors[VERDICT].tolist()  # an earlier version wrote three
        self.best, self.best_step, self.worse, self.copied = best, int(step), int(worse), any(copied)
        self.weights = {n.removeprefix(WEIGHTS): t for n, t in tensors.items() if n.startswith(WEIGHTS)}

    def restore_best(self) -> None:
        """Load the best weights into the average, from which the release is made."""
        if self.weights:
            self.recipe.average.load_state_dict(self.weights)

    def _averaged(self) -> dict[str, Tensor]:
        return dict(self.recipe.average.state_dict())
