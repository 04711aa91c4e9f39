"""Encode the training images of a set once: `python -m training.encode_latents RELEASE DATA OUTPUT`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.data import image_set
from training.data.encoding import encode
from training.data.image_set import DataError
from training.model.latent_diffusion import load_autoencoder
from training.model.release import ReleaseError


def run(release: Path, data: Path, output: Path, *, flip: bool = False) -> Path:
    """Write the latents of the images in `data` under `output` and return it. Raises ReleaseError or DataError."""
    autoencoder, description = load_autoencoder(release)
    encode(autoencoder, image_set.read(data), output, digest=description.digest, flip=flip)
    return output


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
