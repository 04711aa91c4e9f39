"""`darkroom train` measures published first stages on the pictures, and uses the best if it fits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kfp_pipelines.commands.first_stage import choose_published
from services.errors import CommandError
from services.registry import aliases, releases
from tests.support.stack import Stack
from training.data.own_images.inspection import Inspection, inspect
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import save_autoencoder
from training.planning import first_stages

NAME = "measured-first-stage"


@pytest.fixture
def pictures(tmp_path: Path) -> Inspection:
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(tmp_path / f"{number}.png")
    return inspect(str(tmp_path), 512)


@pytest.fixture
def published(stack: Stack, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """The reference of a random first stage at 1/4 of the size; commands of this process use the stack."""
    monkeypatch.setenv("DARKROOM_ROOT", str(stack.root))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Autoencoder(AutoencoderConfig(channels=32, multipliers=(1, 1, 1), res_blocks=1, latent_channels=4))
    folder = tmp_path_factory.mktemp("first") / "release"
    save_autoencoder(folder, model, name=NAME, image_size=32)
    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), folder)
        aliases.promote(connection, f"{name}@{version}", "candidate")
    return f"{name}@{version}"


def test_the_best_is_used_if_it_fits_and_a_new_one_is_trained_if_not(
    published: str, pictures: Inspection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = choose_published(f"{NAME}@candidate", pictures, 32)
    assert named is not None
    assert (named.reference, named.fits) == (published, False)
    assert choose_published("new", pictures, 32) is None
    capsys.readouterr()
    assert choose_published("auto", pictures, 32) is None
    told = capsys.readouterr().out
    assert "no published first stage fits: " in told
    assert told.endswith("and 25 are needed\n")
    monkeypatch.setattr(first_stages, "FITS", -100.0)
    best = choose_published("auto", pictures, 32)
    assert best is not None
    assert best.psnr >= named.psnr


def test_one_that_cannot_encode_the_pictures_is_refused_by_name_and_passed_over_by_itself(
    published: str, pictures: Inspection
) -> None:
    with pytest.raises(CommandError) as error:
        choose_published(published, pictures, 30)
    assert str(error.value) == (
        f"--first-stage: {published} is not allowed; it needs multiples of 4 pixels, at least 16, not 30"
    )
    assert choose_published("auto", pictures, 31) is None
