"""Checkpoints: the state from which a training run resumes as if it had never stopped.

A checkpoint is a folder of two files. It is complete once the folder has its final name:

    step-00000500/state.safetensors    weights, their moving average, the optimisers' moments
    step-00000500/run.json             the step, the configuration and the data's fingerprint

It holds no state of random generators: data order, noise and dropout are functions of (seed, step).
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.disk import is_disk_full, sync_to_disk
from training.errors import DarkroomError, summarise
from training.runs.identity import Run

STATE, RUN = "state.safetensors", "run.json"


class CheckpointError(DarkroomError):
    """A checkpoint cannot be written, read or resumed from; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on this machine."""

    folder: Path
    step: int
    run: Mapping[str, Any]  # the `run` that was given to `save`


class CheckpointStore(Protocol):
    """The checkpoints of one run. Each call leaves the store with complete checkpoints only."""

    def save(self, step: int, tensors: dict[str, Tensor], run: Mapping[str, Any]) -> None:
        """Save the state of a step and delete the oldest checkpoints. Raises CheckpointError."""

    def latest(self) -> Checkpoint | None:
        """Return the checkpoint of the highest step. Raises CheckpointError if it is damaged."""

    def clear(self) -> None:
        """Delete all checkpoints."""


class CheckpointLocation(Protocol):
    """Where runs keep their checkpoints: a disk, a volume, an object store."""

    def open(self, run: Run) -> AbstractContextManager[CheckpointStore]:
        """Open the store of a run; it is closed when training ends. Raises CheckpointError."""


class LocalCheckpoints:
    """A `CheckpointStore` in a folder of this machine or of a volume. It keeps the latest `keep` checkpoints."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, tensors: dict[str, Tensor], run: Mapping[str, Any]) -> None:
        """See `CheckpointStore.save`."""
        target = self.folder / f"step-{step:08d}"
        unfinished = self.folder / f"{target.name}.unfinished"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished / STATE)
            (unfinished / RUN).write_text(json.dumps({**run, "step": step}, indent=2) + "\n")
            for path in (unfinished / STATE, unfinished / RUN, unfinished):
                sync_to_disk(path)
            shutil.rmtree(target, ignore_errors=True)  # left by a run that was restarted
            unfinished.rename(target)
            sync_to_disk(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(self._describe_failure(step, error, tensors)) from None
        for old in self.complete()[: -self.keep]:
            shutil.rmtree(old)

    def latest(self) -> Checkpoint | None:
        """See `CheckpointStore.latest`."""
        complete = self.complete()
        if not complete:
            return None
        try:
            run = json.loads((complete[-1] / RUN).read_text())
            return Checkpoint(complete[-1], run["step"], run)
        except (OSError, ValueError, KeyError) as error:
            raise damage_error(complete[-1], error) from None

    def clear(self) -> None:
        """See `CheckpointStore.clear`."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def complete(self) -> list[Path]:
        """Return the folders of complete checkpoints, the oldest first."""
        return sorted((path for path in self.folder.glob("step-*") if path.suffix != ".unfinished"), key=step_of)

    def _describe_failure(self, step: int, error: Exception, tensors: Mapping[str, Tensor]) -> str:
        need = sum(tensor.nbytes for tensor in tensors.values())
        why = f"the disk is full; a checkpoint takes {need / 1e6:.0f} MB" if is_disk_full(error) else str(error)
        complete = self.complete()
        left = f"step {step_of(complete[-1])} is kept" if complete else "there is no earlier one"
        return f"{self.folder}: the checkpoint of step {step} could not be written: {why} ({left}). " \
               "Make room and run the same command again"  # fmt: skip


@dataclass(frozen=True)
class CheckpointFolder:
    """A `CheckpointLocation` on disk: a folder per run under `root`, or `checkpoints` in the run's output folder."""

    root: Path | None = None

    def open(self, run: Run) -> AbstractContextManager[LocalCheckpoints]:
        """See `CheckpointLocation.open`."""
        folder = output_checkpoints(run) if self.root is None else self.root / run.key
        return nullcontext(LocalCheckpoints(folder, keep=run.config["checkpoint"]["keep"]))


def output_checkpoints(run: Run) -> Path:
    """Return the folder of checkpoints in a run's output folder."""
    return Path(run.config["output"]) / "checkpoints"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(folder.name.removeprefix("step-"))


def damage_error(folder: Path, error: Exception) -> CheckpointError:
    """Return the error for a checkpoint that cannot be loaded."""
    return CheckpointError(
        f"{folder}: a damaged checkpoint ({summarise(error, 300)}); remove the folder to resume from the one before"
    )
