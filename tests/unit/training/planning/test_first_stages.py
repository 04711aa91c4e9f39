"""A published first stage is measured on the pictures, and fits if it reconstructs them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.own_images.inspection import Inspection, inspect
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.planning.first_stages import FITS, Published, measure_psnr, why_not


def first_stage(channels: int = 3, **changes: object) -> Autoencoder:
    fields = {"image_channels": channels, "channels": 32, "multipliers": (1, 1, 1), "latent_channels": 4, **changes}
    return Autoencoder(AutoencoderConfig(**fields))  # type: ignore[arg-type]


@pytest.fixture
def found(tmp_path: Path) -> Inspection:
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 32)).save(tmp_path / f"{number}.png")
    return inspect(str(tmp_path), 512)


def test_an_untrained_one_does_not_fit_and_one_that_keeps_the_pixels_does(found: Inspection) -> None:
    assert not Published("a@1", first_stage(), measure_psnr(first_stage(), found.looks, 32)).fits
    kept = first_stage(latent_channels=3, regularisation="identity")
    assert measure_psnr(kept, found.looks, 32) == 100
    assert Published("a@1", kept, FITS).fits


def test_grey_pictures_are_measured_in_grey_and_large_ones_in_96_pixels(found: Inspection) -> None:
    kept = first_stage(1, latent_channels=1, regularisation="identity")
    assert measure_psnr(kept, found.looks, 256) == 100


@pytest.mark.parametrize(
    ("autoencoder", "size", "channels", "reason"),
    [
        (first_stage(), 32, 3, None),
        (first_stage(), 16, 3, None),
        (first_stage(), 32, 1, "it has 3 channels, the pictures 1"),
        (first_stage(1), 32, 3, "it has 1 channel, the pictures 3"),
        (first_stage(), 30, 3, "it needs multiples of 4 pixels, at least 16, not 30"),
        (first_stage(), 12, 3, "it needs multiples of 4 pixels, at least 16, not 12"),
        (first_stage(latent_channels=3, regularisation="identity"), 32, 3, "its latents are the pixels"),
    ],
)
def test_why_a_first_stage_cannot_encode_pictures(autoencoder, size, channels, reason) -> None:
    assert why_not(autoencoder, size, channels) == reason
