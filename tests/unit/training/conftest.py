"""Fixtures of the training tests: a small image set, small models, one thread."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import image_set
from training.data.image_set import ImageSet
from training.model import conditioners
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet, UNetConfig

CLASSES, SIZE = 3, 16


@pytest.fixture(autouse=True, scope="module")
def _no_curves() -> Iterator[None]:
    """Write an empty `loss.png`: each of a hundred runs would draw for longer than it trains, and no test looks at it.

    The drawing has a test of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.runs.progress.draw", lambda rows, path: path.write_bytes(b""))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: tensors are small, and the rounding of sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """48 images of 16x16 pixels with one bright bar each, whose height is the class."""
    root = tmp_path_factory.mktemp("bars")
    rng = np.random.default_rng(0)
    labels = [row % CLASSES for row in range(48)]
    images = rng.integers(0, 60, (48, SIZE, SIZE, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 + 5 * label : 5 + 5 * label] += 180
    records = [
        {"name": f"bar-{row:02d}", "label": label, "text": f"a bar at {label}"} for row, label in enumerate(labels)
    ]
    return image_set.write(
        root, name="bars", images=images, records=records, train_count=36, classes=[str(i) for i in range(CLASSES)]
    )


@pytest.fixture(scope="session")
def bars_root(bars: ImageSet) -> Path:
    return Path(bars.images.filename).parent  # type: ignore[attr-defined]


def tiny_autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        image_channels=1, latent_channels=2, channels=32, multipliers=(1, 1), res_blocks=1, middle_attention=False
    )
    return Autoencoder(config).eval()


@pytest.fixture
def autoencoder() -> Autoencoder:
    return tiny_autoencoder()


@pytest.fixture
def latent_diffusion() -> LatentDiffusion:
    """Class-conditional over 2x8x8 latents, with weights that are nowhere zero."""
    autoencoder = tiny_autoencoder()
    unet = UNet(
        UNetConfig(
            in_channels=2, out_channels=2, channels=32, multipliers=(1,), res_blocks=1, attention_factors=(1,),
            context_width=16,
        )
    )  # fmt: skip
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    classes = conditioners.Conditioners({"class_label": conditioners.ClassConditioner(CLASSES, 16)})
    return LatentDiffusion(autoencoder, unet, classes, Diffusion(DiffusionConfig())).eval()
