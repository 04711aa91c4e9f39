"""Encode every training image once.

python -m training.encode_latents AUTOENCODER_RELEASE IMAGE_SET OUTPUT
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from training.data import image_set, latents
from training.data.image_set import ImageSet
from training.data.latents import Description, Latents
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import load_autoencoder

BATCH = 256


@torch.inference_mode()
def encode(autoencoder: Autoencoder, digest: str, images: ImageSet) -> Latents:
    """The scaled posterior moments of the training images."""
    train, labels = images.split("train")
    moments = []
    for batch in train.split(BATCH):
        posterior = autoencoder.posterior(batch)
        pair = torch.stack([posterior.mean, torch.exp(0.5 * posterior.logvar)], dim=1)
        moments.append(pair * autoencoder.latent_scale)
        print(f"step {len(moments)}/{-(-len(train) // BATCH)}", flush=True)
    return Latents(torch.cat(moments).clone(), labels, Description(images.description.fingerprint, digest))


def run(release: Path, data: Path, output: Path) -> Path:
    """Write the latents of the set `data` under `output`. Raises ReleaseError or DataError."""
    autoencoder, description = load_autoencoder(release)
    encoded = encode(autoencoder, description.digest, image_set.read(data))
    latents.write(output, encoded.moments, encoded.labels, encoded.description)
    return output


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    from training.configuration import ConfigurationError

    if len(arguments) != 3:
        raise ConfigurationError("usage: python -m training.encode_latents AUTOENCODER_RELEASE IMAGE_SET OUTPUT")
    release, data, output = map(Path, arguments)
    print(run(release, data, output))


if __name__ == "__main__":
    from training.train import entry_point

    entry_point(main)
