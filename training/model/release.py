"""Release folders: `release.json`, weights as safetensors, a card and sample images.

`release.json` lists the files with their sha256. A release is identified by its digest, which covers its architecture,
conditions and weights; lineage and metrics describe it and are not covered. This module reads JSON and hashes files. It
never loads a tensor, so a process without torch can use it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from training.errors import DarkroomError

FORMAT = 1
MANIFEST = "release.json"
AUTOENCODER_FILE = "autoencoder.safetensors"
WEIGHTS_SUFFIXES = (".safetensors", ".tokenizer.json")  # a vocabulary determines the model as much as its weights
DISTILLED = "distilled"  # in the conditions: see `Distilled`
USUAL_TIMESTEPS = 1000
# What an item of a request says besides its conditions, none of which can have such a name
ITEM_FIELDS = frozenset({
    "decoder", "eta", "guidance_interval", "guidance_rescale", "guidance_scale", "id", "image", "mask", "metadata",
    "negative", "seed", "size", "solver", "spacing", "steps", "strength", "toward", "variations",
})  # fmt: skip
LIGHT_DECODER = "light_decoder"  # in the architecture, the lineage and the metrics of releases that have one
MOST_LOSS = 0.3  # dB of PSNR against real images, for a light decoder that is the default
Kind = Literal["autoencoder", "diffusion"]
DecoderName = Literal["full", "light"]


class ReleaseError(DarkroomError):
    """A release that is damaged, edited or not supported; the message names the file and says what to do."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a release."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Serve:
    """How a release must be served, whatever the setting of a worker is.

    precision: "fp32" for a network that overflows or is not good enough in bf16. rows: the most network rows.
    """

    precision: Literal["fp32"] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Distilled:
    """How a release that was distilled to few steps may be sampled.

    steps: the permitted numbers of evaluations. guidance: the lowest and the highest scale. best_steps, best_guidance:
    the best of them.
    """

    steps: tuple[int, ...]
    guidance: tuple[float, float]
    best_steps: int
    best_guidance: float

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Distilled":
        """Parse the field of a release's conditions. Raises ReleaseError."""
        try:
            found = cls(
                tuple(map(int, document["steps"])),
                (float(document["guidance_scale"][0]), float(document["guidance_scale"][1])),
                int(document["defaults"]["steps"]),
                float(document["defaults"]["guidance_scale"]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ReleaseError(f"{MANIFEST}: conditions.{DISTILLED}: malformed ({error}); write it again") from None
        low, high = found.guidance
        if found.best_steps not in found.steps or not low <= found.best_guidance <= high:
            raise ReleaseError(f"{MANIFEST}: conditions.{DISTILLED}: its defaults are not among what it permits")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the field of a release's conditions."""
        best = {"steps": self.best_steps, "guidance_scale": self.best_guidance}
        return {"steps": list(self.steps), "guidance_scale": list(self.guidance), "defaults": best}


@dataclass(frozen=True)
class Release:
    """The content of `release.json`. Shapes are [channels, height, width]."""

    name: str
    kind: Kind
    architecture: dict[str, Any]
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    conditions: dict[str, Any]  # JSON Schema of an item's conditions, and `guided` and `distilled` (see below)
    files: dict[str, FileRecord] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance works: the model has conditions and was trained to do without them.

        Training needs condition dropout for this (Ho & Salimans 2022, algorithm 1). New releases state the fact as
        `conditions["guided"]`: the digest covers it there, and versions that do not know the field ignore it. For a
        release without the field the lineage decides, and where the lineage does not say, the answer is yes.
        """
        if not self.conditions.get("properties"):
            return False
        if "guided" in self.conditions:
            return bool(self.conditions["guided"])
        dropout: float = self.lineage.get("experiment", {}).get("loss", {}).get("condition_dropout", 1.0)
        return dropout > 0

    def class_names(self, field: str) -> tuple[str, ...]:
        """Return the names of the classes of a condition, in their order; none if its classes have only numbers."""
        rule = self.conditions.get("properties", {}).get(field, {})
        return tuple(next((part["enum"] for part in rule.get("anyOf", ()) if "enum" in part), ()))

    @property
    def distilled(self) -> Distilled | None:
        """How the release may be sampled if it was distilled to few steps; None for others. Raises ReleaseError.

        The digest covers it, as part of the conditions. Versions that do not know it cannot build the U-Net either.
        """
        return Distilled.of(self.conditions[DISTILLED]) if DISTILLED in self.conditions else None

    @property
    def timesteps(self) -> int:
        """The timesteps that the model was trained with, which no sampling has more steps than."""
        return int(self.architecture.get("diffusion", {}).get("timesteps", USUAL_TIMESTEPS))

    @property
    def serve(self) -> Serve:
        """The rule in `architecture["serve"]`, which versions that do not know it ignore. Raises ReleaseError."""
        rule = self.architecture.get("serve", {})
        try:
            found = Serve(**rule)
        except TypeError:
            raise ReleaseError(f"{MANIFEST}: serve: {rule!r} is not allowed; permitted: precision and rows") from None
        if found.precision not in (None, "fp32"):
            raise ReleaseError(f"{MANIFEST}: serve.precision: {found.precision!r} is not allowed; permitted: 'fp32'")
        if found.rows is not None and (type(found.rows) is not int or found.rows < 2):
            raise ReleaseError(f"{MANIFEST}: serve.rows: {found.rows!r} is not allowed; permitted: a number from 2")
        return found

    def with_rule(self, serve: Serve) -> "Release":
        """Return the release with what `serve` says in place of its own rule. Raises ReleaseError if that is malformed.

        The rule is part of the architecture, and so of the digest.
        """
        rule = {**asdict(self.serve), **{name: value for name, value in asdict(serve).items() if value is not None}}
        rule = {name: value for name, value in rule.items() if value is not None}
        others = {name: value for name, value in self.architecture.items() if name != "serve"}
        return replace(self, architecture={**others, **({"serve": rule} if rule else {})})

    @property
    def sampling(self) -> dict[str, Any]:
        """How the release is sampled where a request is silent: fields of requests, in `architecture["sampling"]`.

        Versions that do not know it ignore it.
        """
        return dict(self.architecture.get("sampling", {}))

    def with_sampling(self, fields: Mapping[str, Any]) -> "Release":
        """Return the release with these fields in place of its own ones; they are part of the digest."""
        sampling = {**self.sampling, **fields}
        others = {name: value for name, value in self.architecture.items() if name != "sampling"}
        return replace(self, architecture={**others, **({"sampling": sampling} if sampling else {})})

    @property
    def has_light_decoder(self) -> bool:
        """Whether there is a light decoder too. Versions that do not know it decode with the own one."""
        return LIGHT_DECODER in self.architecture

    def with_default_decoder(self) -> "Release":
        """Return the release with the decoder as default of requests that the evaluation of the light one permits.

        That is the light one if its images lose at most MOST_LOSS of PSNR. A first stage has no requests.
        """
        if self.kind != "diffusion":
            return self
        loss = self.metrics.get(LIGHT_DECODER, {}).get("psnr_loss")
        return self.with_sampling({"decoder": "full" if loss is None or loss > MOST_LOSS else "light"})

    @cached_property
    def digest(self) -> str:
        """The sha256 of kind, architecture, shapes, conditions and weights: equal models have equal digests."""
        identity = {
            "kind": self.kind,
            "architecture": self.architecture,
            "image_shape": list(self.image_shape),
            "latent_shape": list(self.latent_shape),
            "conditions": self.conditions,
            "weights": {n: r.sha256 for n, r in self.files.items() if n.endswith(WEIGHTS_SUFFIXES)},
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the content of `release.json`."""
        return {"format": FORMAT, "digest": self.digest, **asdict(self)}


def parse(document: Mapping[str, Any]) -> Release:
    """Parse the content of `release.json`. Raises ReleaseError for a malformed field or a wrong digest."""
    version = document.get("format") if isinstance(document, Mapping) else None
    if version != FORMAT:
        raise ReleaseError(f"{MANIFEST}: format {version!r} is not known; this version reads format {FORMAT}")
    try:
        release = Release(
            name=document["name"],
            kind=document["kind"],
            architecture=document["architecture"],
            image_shape=tuple(document["image_shape"]),
            latent_shape=tuple(document["latent_shape"]),
            conditions=document["conditions"],
            files={name: FileRecord(**record) for name, record in document["files"].items()},
            lineage=document["lineage"],
            metrics=document["metrics"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{MANIFEST}: a field is missing or malformed ({error}); write the release again") from None
    if document.get("digest") != release.digest:
        raise ReleaseError(f"{MANIFEST}: the digest does not match its content; it was edited by hand")
    return release


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path, release: Release) -> Release:
    """Write `release.json` with a record of every file in `folder`. Returns the release with these records."""
    files = {
        path.name: FileRecord(sha256_of(path), path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    complete = replace(release, files=files)
    (folder / MANIFEST).write_text(json.dumps(complete.to_json(), indent=2) + "\n")
    return complete


def write_best(folder: Path, steps: int) -> Release:
    """Make `steps` the default of a distilled release folder, and return it. Raises ReleaseError."""
    release = read(folder)
    distilled = release.distilled
    if distilled is None:
        raise ReleaseError(f"{folder}: not distilled; only distilled releases have defaults of their own")
    changed = Distilled.of(replace(distilled, best_steps=steps).to_json()).to_json()
    return write(folder, replace(release, conditions={**release.conditions, DISTILLED: changed}))


def read(folder: Path) -> Release:
    """Read and verify a release folder: it has exactly the recorded files, with the recorded sha256.

    Raises ReleaseError naming the file.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ReleaseError(f"{folder}: not a release, {MANIFEST} is missing")
    try:
        release = parse(json.loads(manifest.read_text()))
    except ValueError as error:  # not JSON, or not even UTF-8
        raise ReleaseError(f"{manifest}: not JSON ({error})") from None
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if unexpected := present - release.files.keys():
        raise ReleaseError(f"{folder}: files that {MANIFEST} does not list: {', '.join(sorted(unexpected))}")
    for name, record in release.files.items():
        path = folder / name
        if name not in present:
            raise ReleaseError(f"{path}: missing; fetch the release again")
        if sha256_of(path) != record.sha256:
            raise ReleaseError(f"{path}: sha256 differs from {MANIFEST}; the file was damaged, fetch the release again")
    return release
