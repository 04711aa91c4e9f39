"""Encode the training images of a set once: `python -m training.encode_latents RELEASE DATA OUTPUT`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.commands import run_command
from training.data import image_set
from training.data.encoding import check_images, encode
from training.model.interop.sources import open_release
from training.model.latent_diffusion import load_autoencoder
from training.recipes.latent_scale import measure_if_needed


def run(release: Path, data: Path, output: Path, *, flip: bool = False) -> Path:
    """Write the latents of the image set `data` to `output` and return it. Raises ReleaseError or DataError."""
    with open_release(release, first_stage=True) as folder:
        autoencoder, description = load_autoencoder(folder)
    images = image_set.read(data)
    check_images(autoencoder, images)
    measure_if_needed(autoencoder, description, images)
    encode(autoencoder, images, output, digest=description.digest, flip=flip)
    return output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m training.encode_latents", description=__doc__)
    parser.add_argument("release", type=Path, help="release folder of an autoencoder")
    parser.add_argument("data", type=Path, help="folder of an image set")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--flip", action="store_true", help="encode mirrored images as well, for data.flip=true")
    parsed = parser.parse_args(arguments)
    return run_command(
        lambda: print(run(parsed.release, parsed.data, parsed.output, flip=parsed.flip)), logs=lambda: parsed.output
    )


if __name__ == "__main__":
    sys.exit(main())
