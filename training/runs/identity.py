"""The identity of a training run: what must be equal for one process to resume where another one died."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.experiments.fields import differences, leaves
from training.experiments.schema import Experiment, to_plain
from training.model import release
from training.model.interop.sources import open_release

MAY_CHANGE = ("output", "data.root", "data.prepared", "data.latents", "data.workers", "autoencoder", "teacher",
              "initial", "device", "devices", "accumulate", "checkpoint", "resume", "pictures_every",
              "data.max_bad", "logger")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """The settings and inputs of a training run, which its checkpoints record."""

    config: Mapping[str, Any]  # plain
    inputs: Mapping[str, str]  # the data's fingerprint, and the digests of the releases that the run starts from

    @classmethod
    def of(cls, config: Experiment, data_fingerprint: str) -> "Run":
        """Return the run of an experiment on these images. Raises ReleaseError for a parent that cannot be read."""
        digests = {f"{name} digest": digest for name, digest in parents(config).items()}
        return cls(to_plain(config), {"data fingerprint": data_fingerprint, **digests})

    @property
    def key(self) -> str:
        """64 hexadecimal digits that identify the run where the checkpoints of many runs are stored.

        A hash of the settings that may not change, the inputs, and the source of this package.
        """
        settings = [(name, value) for name, value in leaves(self.config) if not self.may_change(name)]
        return hashlib.sha256(json.dumps([settings, self.inputs, hash_source()], sort_keys=True).encode()).hexdigest()

    def may_change(self, name: str) -> bool:
        """Return whether a run may resume with another value of a field. With a constant rate, `steps` may grow."""
        if name == "steps":
            return bool(self.config["optimiser"]["schedule"] == "constant")
        return any(name == free or name.startswith(f"{free}.") for free in MAY_CHANGE)

    def changes_since(self, recorded: Mapping[str, Any]) -> list[str]:
        """Describe each change since `recorded`, the run of a checkpoint, that rules out resuming from it."""
        changes = [
            f"{name} was {was} and is {now}"
            for name, was, now in differences(recorded.get("config", {}), self.config)
            if not self.may_change(name) or (name == "steps" and now < was)
        ]
        return changes + [
            f"{name} was {was[:12]} and is {now[:12]}"
            for name, was, now in differences(recorded.get("inputs", {}), self.inputs)
        ]


def parents(config: Experiment) -> dict[str, str]:
    """Return the digests of the releases that a run starts from: `autoencoder`, `teacher` and `initial` weights."""
    sources = {**{name: getattr(config, name, None) for name in ("autoencoder", "teacher")}, "initial": config.initial}
    digests = {}
    for name, source in sources.items():
        if source is not None:
            with open_release(Path(source), first_stage=name == "autoencoder") as folder:
                digests[name] = release.read(folder).digest
    return digests


@cache
def hash_source() -> str:
    """Return the sha256 of this package's Python files, since other code may compute other weights."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0{path.read_text()}\0".encode())
    return digest.hexdigest()


def lineage_of(config: Experiment, data: dict[str, Any]) -> dict[str, Any]:
    """Return the lineage of a release: its images, and every setting except paths, which mean nothing elsewhere."""
    settings = to_plain(config)
    for path in ("output", "autoencoder", "teacher", "initial", "resume", "checkpoint", "logger"):
        settings.pop(path, None)
    for path in ("root", "prepared", "latents"):
        del settings["data"][path]
    return {"data": data, "experiment": settings}
