"""Latents on disk: the encoded training images, computed once and read through a memory map.

A record is the posterior's mean and standard deviation in scaled units (unit standard deviation over the whole set),
so that training samples the posterior at every step. With mirrored images there is a second pair for each image.
Latents of whole images have a file for each bucket; see `aspect_buckets`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data import pointer
from training.data.image_set import DataError

MOMENTS, DESCRIPTION = "moments.npy", "latents.json"


@dataclass(frozen=True)
class Description:
    """The content of `latents.json`."""

    count: int
    shape: tuple[int, int, int]  # of one latent, [C, h, w]
    data_fingerprint: str  # of the image set
    autoencoder: str  # digest of the release
    flips: int = 1  # 2: unmirrored and mirrored
    buckets: tuple[tuple[int, int, int], ...] = ()  # count, h and w of each, if the latents are of whole images

    @property
    def parts(self) -> dict[str, tuple[int, int, int]]:
        """Count, h and w of each file."""
        if not self.buckets:
            return {MOMENTS: (self.count, *self.shape[1:])}
        return {f"moments-{width}x{height}.npy": (count, height, width) for count, height, width in self.buckets}

    def matches(self, *, data_fingerprint: str, autoencoder: str, flips: int) -> bool:
        """Return whether the latents belong to this image set and this autoencoder, with this number of flips."""
        return (self.data_fingerprint, self.autoencoder, self.flips) == (data_fingerprint, autoencoder, flips)


@dataclass(frozen=True)
class Latents:
    """Moments [N, flips, 2, C, h, w] float32, mean and standard deviation: one tensor, or one of each bucket."""

    parts: tuple[Tensor, ...]
    description: Description

    @property
    def moments(self) -> Tensor:
        """The only tensor."""
        (moments,) = self.parts
        return moments


def write(
    root: Path,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    count: int,
    data_fingerprint: str,
    autoencoder: str,
) -> Latents:
    """Write batches of (mean, std), each [R, flips, C, h, w], `count` rows in total. Holds one batch in memory."""
    root.mkdir(parents=True, exist_ok=True)
    (root / DESCRIPTION).unlink(missing_ok=True)  # written last, so a folder that has one is complete
    flips, _, channels, height, width = write_moments(root / MOMENTS, batches, count)
    shape = (channels, height, width)
    return finish(root, Description(count, shape, data_fingerprint, autoencoder, flips))


def write_buckets(
    root: Path, parts: Sequence[tuple[int, int, int]], batches: Iterable[Iterable[tuple[Tensor, Tensor]]], *,
    channels: int, flips: int, data_fingerprint: str, autoencoder: str,
) -> Latents:  # fmt: skip
    """Write the latents of whole images. parts: count, h and w of each bucket. batches: of each, as in `write`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / DESCRIPTION).unlink(missing_ok=True)
    count, shape = sum(part[0] for part in parts), (channels, *parts[0][1:])
    description = Description(count, shape, data_fingerprint, autoencoder, flips, tuple(parts))
    for (name, part), moments in zip(description.parts.items(), batches, strict=True):
        if part[0]:
            write_moments(root / name, moments, part[0])
        else:  # no training image of a bucket
            np.save(root / name, np.empty((0, flips, 2, channels, *part[1:]), np.float32))
    return finish(root, description)


def write_moments(path: Path, batches: Iterable[tuple[Tensor, Tensor]], count: int) -> tuple[int, ...]:
    """Write batches to a file of `count` rows, and return the shape of a row. Raises DataError, also if the disk fills.

    The file is not written through a memory map, in which a full disk kills the process.
    """
    shape: tuple[int, ...] = ()
    row = 0
    try:
        with path.open("wb") as file:
            for mean, std in batches:
                part = torch.stack([mean, std], dim=2).float().cpu().numpy()
                if not row:
                    shape = part.shape[1:]
                    header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(part, dtype="<f4").data)
                row += len(part)
    except OSError as error:
        raise DataError(
            f"data.latents: {path} cannot be written ({error.strerror}); make room and run the same command again"
        ) from None
    if not row or row != count:
        raise DataError(f"data: {row} of {count} images were encoded")
    return shape


def finish(root: Path, description: Description) -> Latents:
    """Write the description, and read the latents."""
    fields = {field: value for field, value in asdict(description).items() if field != "buckets" or value}
    (root / DESCRIPTION).write_text(json.dumps(fields, indent=2) + "\n")
    return read(root)


def read(root: Path) -> Latents:
    """Read the latents in a folder, or in the one that it points to. Raises DataError that says what to do."""
    again = "encode them again with python -m training.encode_latents"
    root = pointer.resolve(root)
    if not (root / DESCRIPTION).is_file():
        raise DataError(f"data.latents: {root} holds no latents ({DESCRIPTION} is missing); {again}")
    try:
        document: dict[str, Any] = json.loads((root / DESCRIPTION).read_text())
        buckets = tuple((count, height, width) for count, height, width in document.get("buckets", ()))
        description = Description(**{**document, "shape": tuple(document["shape"]), "buckets": buckets})
        # Copy on write, because torch requires writable memory.
        parts = [np.load(root / name, mmap_mode="c" if part[0] else None) for name, part in description.parts.items()]
    except KeyError as error:
        raise DataError(f"data.latents: {root / DESCRIPTION} lacks the field {error}; {again}") from None
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise DataError(f"data.latents: {root} is damaged ({error}); {again}") from None
    for (name, (count, *sides)), moments in zip(description.parts.items(), parts, strict=True):
        expected = (count, description.flips, 2, description.shape[0], *sides)
        if moments.shape != expected or moments.dtype != np.float32:
            raise DataError(
                f"data.latents: shape: {root / name} holds {moments.dtype} {moments.shape}, "
                f"{DESCRIPTION} says float32 {expected}; {again}"
            )
    return Latents(tuple(map(torch.from_numpy, parts)), description)


def check(latents: Latents, *, data_fingerprint: str, autoencoder: str, flips: int) -> None:
    """Raise DataError unless the latents belong to this image set and this autoencoder, with this number of flips."""
    wanted = {"data_fingerprint": data_fingerprint, "autoencoder": autoencoder}
    for field, value in wanted.items():
        if (found := getattr(latents.description, field)) != value:
            raise DataError(
                f"data.latents: {field}: the latents belong to {found[:12]}, this run uses {value[:12]}; "
                "encode them again with python -m training.encode_latents"
            )
    if latents.description.flips != flips:
        raise DataError(
            f"data.latents: flips: the latents have {latents.description.flips}, data.flip needs {flips}; "
            "encode them again with python -m training.encode_latents"
        )
