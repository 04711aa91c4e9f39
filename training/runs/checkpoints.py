"""Everything that a training run needs to go on as if it had not died, saved on a timer.

A checkpoint is a folder of two files, complete once it has its name:

    step-00000500/state.safetensors    weights, their average, optimisers' moments
    step-00000500/run.json             the step, the configuration and the data's fingerprint

There is no state of random generators in it: data order, noise and dropout are functions of (seed, step).
"""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.errors import DarkroomError
from training.runs.identity import Run

STATE, RUN = "state.safetensors", "run.json"


class CheckpointError(DarkroomError):
    """A checkpoint that cannot be written, read or gone on from; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on this machine."""

    folder: Path
    step: int
    run: Mapping[str, Any]  # what `save` was told besides


class CheckpointStore(Protocol):
    """Where checkpoints are kept. Each call leaves the store with whole checkpoints only."""

    def save(self, step: int, tensors: dict[str, Tensor], run: Mapping[str, Any]) -> None:
        """Keep one more, and forget the oldest ones. Raises CheckpointError."""

    def latest(self) -> Checkpoint | None:
        """The one of the highest step. Raises CheckpointError for one that is damaged."""

    def clear(self) -> None:
        """Forget all."""


class LocalCheckpoints:
    """In a folder of this machine, or of a volume that outlives it; the latest `keep` of them."""

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
                synced(path)
            shutil.rmtree(target, ignore_errors=True)  # of a run that was begun again
            unfinished.rename(target)
            synced(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(self.failed(step, error, tensors)) from None
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
            raise damaged(Checkpoint(complete[-1], 0, {}), error) from None

    def clear(self) -> None:
        """See `CheckpointStore.clear`."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def complete(self) -> list[Path]:
        """The folders of whole checkpoints, the oldest first."""
        return sorted((path for path in self.folder.glob("step-*") if path.suffix != ".unfinished"), key=step_of)

    def failed(self, step: int, error: Exception, tensors: Mapping[str, Tensor]) -> str:
        """Why a checkpoint was not written, and what is left."""
        need = sum(tensor.nbytes for tensor in tensors.values())
        why = f"the disk is full; a checkpoint takes {need / 1e6:.0f} MB" if disk_full(error) else str(error)
        complete = self.complete()
        left = f"step {step_of(complete[-1])} is kept" if complete else "there is none before it"
        return f"{self.folder}: the checkpoint of step {step} could not be written: {why} ({left}). " \
               "Make room and run the same command again"  # fmt: skip


class CheckpointLocation(Protocol):
    """Where runs keep their checkpoints: a disk, a volume, an object store."""

    def open(self, run: Run) -> AbstractContextManager[CheckpointStore]:
        """Open the store of a run, to be closed when training ends. Raises CheckpointError."""


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


def disk_full(error: Exception) -> bool:
    """Whether there was no room to write; safetensors tells so in words alone."""
    number = getattr(error, "errno", None)
    words = ("No space left", "quota exceeded")
    return number in (errno.ENOSPC, errno.EDQUOT) or any(part in str(error) for part in words)


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name.removeprefix("step-"))


def synced(path: Path) -> None:
    """Make what was written to a file or folder outlast a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(checkpoint: Checkpoint, error: Exception) -> CheckpointError:
    """What to say of a checkpoint that does not load."""
    reason = " ".join(str(error).split())[:300]
    return CheckpointError(
        f"{checkpoint.folder}: a damaged checkpoint ({reason}); remove the folder to go on from the one before"
    )
