"""Encode the training images of a set once: `python -m training.encode_latents RELEASE DATA OUTPUT`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.data import image_set, latents
from training.data.image_set import DataError, ImageSet
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import load_autoencoder
from training.model.release import ReleaseError

BATCH = 32


def run(release: Path, data: Path, output: Path) -> Path:
    """Write the latents of the images in `data` under `output` and return it. Raises ReleaseError or DataError."""
    autoencoder, description = load_autoencoder(release)
    encode(autoencoder, image_set.read(data), output, digest=description.digest)
    return output


def encode(autoencoder: Autoencoder, images: ImageSet, output: Path, *, digest: str) -> latents.Latents:
    """Posterior mean and standard deviation of each training image, in scaled units."""
    count = images.description.train_count
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels = images.images.shape[3]
    if channels != autoencoder.config.image_channels:
        raise DataError(
            f"data.root: images of {channels} channels; this autoencoder takes {autoencoder.config.image_channels}"
        )
    if images.image_size % autoencoder.config.factor:
        raise DataError(
            f"data.root: images of {images.image_size} pixels; "
            f"this autoencoder takes multiples of {autoencoder.config.factor}"
        )
    autoencoder = autoencoder.to(device).eval()

    @torch.inference_mode()
    def moments() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, count, BATCH):
            pixels = torch.from_numpy(images.images[start : min(start + BATCH, count)].copy())
            yield autoencoder.moments(image_set.to_unit(pixels).to(device))

    labels = torch.from_numpy(images.labels[:count].copy())
    fingerprint = images.description.fingerprint
    return latents.write(output, moments(), labels, data_fingerprint=fingerprint, autoencoder=digest)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. A mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m training.encode_latents", description=__doc__)
    parser.add_argument("release", type=Path, help="release folder of an autoencoder")
    parser.add_argument("data", type=Path, help="folder of an image set")
    parser.add_argument("output", type=Path, help="folder to write")
    parsed = parser.parse_args(arguments)
    try:
        print(run(parsed.release, parsed.data, parsed.output))
    except (ReleaseError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
