"""Encode the training images of a set once: `python -m training.encode_latents RELEASE DATA OUTPUT`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from training.data import image_set, latents
from training.data.image_set import DataError, ImageSet
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import load_autoencoder
from training.model.release import ReleaseError

BATCH = 32


def run(release: Path, data: Path, output: Path, *, flip: bool = False) -> Path:
    """Write the latents of the images in `data` under `output` and return it. Raises ReleaseError or DataError."""
    autoencoder, description = load_autoencoder(release)
    encode(autoencoder, image_set.read(data), output, digest=description.digest, flip=flip)
    return output


def encode(
    autoencoder: Autoencoder, images: ImageSet, output: Path, *, digest: str, flip: bool = False
) -> latents.Latents:
    """Posterior mean and standard deviation of each training image, in scaled units; with `flip` mirrored too."""
    check(autoencoder, images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = autoencoder.to(device).eval()
    rows = images.rows("train")
    starts = range(0, len(rows), BATCH)
    console = Console()

    @torch.inference_mode()
    def moments() -> Iterator[tuple[Tensor, Tensor]]:
        for start in track(starts, "encoding", console=console, transient=True, disable=not console.is_terminal):
            pixels = images.pixels(rows[start : start + BATCH]).to(device)
            views = [pixels, pixels.flip(-1)] if flip else [pixels]
            encoded = [autoencoder.moments(view) for view in views]
            mean, std = (torch.stack(part, dim=1) for part in zip(*encoded, strict=True))
            yield mean, std

    fingerprint = images.description.fingerprint
    return latents.write(output, moments(), count=len(rows), data_fingerprint=fingerprint, autoencoder=digest)


def check(autoencoder: Autoencoder, images: ImageSet) -> None:
    """Raise DataError for images that the autoencoder does not take."""
    config = autoencoder.config
    if images.channels != config.image_channels:
        raise DataError(
            f"data.root: images of {images.channels} channels; this autoencoder takes {config.image_channels}"
        )
    if images.image_size % config.factor:
        raise DataError(
            f"data.root: images of {images.image_size} pixels; this autoencoder takes multiples of {config.factor}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. A mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m training.encode_latents", description=__doc__)
    parser.add_argument("release", type=Path, help="release folder of an autoencoder")
    parser.add_argument("data", type=Path, help="folder of an image set")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--flip", action="store_true", help="mirrored images too, for data.flip=true")
    parsed = parser.parse_args(arguments)
    try:
        print(run(parsed.release, parsed.data, parsed.output, flip=parsed.flip))
    except (ReleaseError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
