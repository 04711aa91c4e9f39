"""Mistakes that need no images are told before the images are prepared."""

from pathlib import Path

import pytest

from training import train
from training.experiments import compose
from training.experiments.schema import ExperimentError
from training.model import release
from training.model.release import Release


@pytest.fixture
def first_stage(tmp_path: Path) -> Path:
    """A release whose latents are a quarter of its images; the checks read no weights."""
    release.write(tmp_path, Release("first", "autoencoder", {}, (1, 28, 28), (4, 7, 7), {}))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "emoji_text",
            ["data.image_size=28"],
            "7x7 latents cannot be halved 2 times; set data.image_size=32",
        ),
        ("emoji_text", ["data.image_size=30"], "data.image_size: 30 is not allowed; permitted: multiples of 4, as the"),
        ("emoji_text", ["data.channels=3"], "data.channels: 3; the autoencoder"),
        ("emoji_autoencoder", ["data.image_size=30"], "1/4 of 30 pixels, which is not whole; set data.image_size=32"),
        ("emoji_text", ["data.image_size=32", "encode_each_step=true", "data.crop=20"], "; set data.crop=16"),
        (
            "emoji_text",
            ["data.image_size=32", "encode_each_step=true", "data.crop=18"],
            "data.crop: 18 is not allowed;",
        ),
        (
            "emoji_autoencoder",
            ["data.image_size=32", "data.crop=25"],
            "of 25 pixels, which is not whole; set data.crop=24",
        ),
        (
            "emoji_autoencoder",
            ["data.image_size=32", "loss.adversarial_weight=0.5", "loss.adversarial_layers=4"],
            "loss.adversarial_layers: 4 is not allowed with images of 32 pixels a side; the discriminator needs 48",
        ),
        (
            "emoji_autoencoder",
            ["data.image_size=24", "data.bucket_step=8", "loss.adversarial_weight=0.5"],
            "loss.adversarial_layers: 3 is not allowed with images of 16 pixels a side; the discriminator needs 24",
        ),
        ("digits_autoencoder", ["data=images", "data.image_size=28"], "model.image_channels: 1; the images have 3"),
    ],
)
def test_a_size_that_does_not_fit_is_told_before_any_image_is_read(
    name: str, overrides: list[str], message: str, first_stage: Path
) -> None:
    if name == "emoji_text":
        overrides = [f"autoencoder={first_stage}", *overrides]
    config = compose.load(name, ["data.root=/nowhere", *overrides])
    with pytest.raises(ExperimentError) as caught:
        train.train(config)
    assert message in str(caught.value)
