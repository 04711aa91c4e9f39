"""What makes two processes two parts of one training run, so that one may go on where the other died."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.experiments.fields import differences, leaves
from training.experiments.schema import Experiment, plain
from training.model import release

MAY_CHANGE = ("output", "data.root", "data.prepared", "data.latents", "data.workers", "autoencoder", "initial",
              "device", "devices", "accumulate", "checkpoint", "resume", "pictures_every", "data.max_bad")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a checkpoint must share with the run that goes on from it."""

    config: Mapping[str, Any]  # plain
    inputs: Mapping[str, str]  # the data's fingerprint and the digests of the releases that it begins with

    @classmethod
    def of(cls, config: Experiment, data_fingerprint: str) -> "Run":
        """The run of an experiment on these images. Raises ReleaseError for a parent that cannot be read."""
        digests = {f"{name} digest": digest for name, digest in parents(config).items()}
        return cls(plain(config), {"data fingerprint": data_fingerprint, **digests})

    @property
    def key(self) -> str:
        """Names this run where the checkpoints of many lie: 64 hexadecimal digits.

        Of the settings that may not change, the inputs, and the source of this package.
        """
        settings = [(name, value) for name, value in leaves(self.config) if not self.may_change(name)]
        return hashlib.sha256(json.dumps([settings, self.inputs, source()], sort_keys=True).encode()).hexdigest()

    def may_change(self, name: str) -> bool:
        """Whether a run may go on with another value of this field; steps may be added to a constant rate's."""
        if name == "steps":
            return bool(self.config["optimiser"]["schedule"] == "constant")
        return any(name == free or name.startswith(f"{free}.") for free in MAY_CHANGE)

    def changes_since(self, recorded: Mapping[str, Any]) -> list[str]:
        """Return what has changed since a run was recorded in a checkpoint and may not change, in words."""
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
    """Digests of the releases that a run begins with: its `autoencoder`, its `initial` weights."""
    folders = {"autoencoder": getattr(config, "autoencoder", None), "initial": config.initial}
    return {name: release.read(Path(folder)).digest for name, folder in folders.items() if folder is not None}


@cache
def source() -> str:
    """The sha256 of this package's Python files: other code may compute something else from the same settings."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0{path.read_text()}\0".encode())
    return digest.hexdigest()


def lineage_of(config: Experiment, data: dict[str, Any]) -> dict[str, Any]:
    """Where a release comes from: its images, and every setting but the paths, which mean nothing elsewhere."""
    settings = plain(config)
    for path in ("output", "autoencoder", "initial", "resume", "checkpoint"):
        settings.pop(path, None)
    for path in ("root", "prepared", "latents"):
        del settings["data"][path]
    return {"data": data, "experiment": settings}
