"""A second stage that copies its training images ends; one whose samples are no copies goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from tests.support.previews import small_previews
from training import train
from training.data import image_set
from training.experiments.schema import HeldOutConfig
from training.metrics.copies import copied_share, thumbnails
from training.model import release
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import save_autoencoder
from training.recipes.diffusion import DiffusionRecipe
from training.runs.held_out import HeldOutJudge
from training.runs.progress import read_table

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
STEPS = 2000  # it ends after two hundred


@pytest.fixture(autouse=True, scope="module")
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


def test_copies_are_told_from_noise_and_from_other_images() -> None:
    generator = torch.Generator().manual_seed(0)
    training, held_out, others = (2 * torch.rand(n, 3, 24, 24, generator=generator) - 1 for n in (4, 12, 64))
    copies = training[torch.arange(64) % 4] + 0.05 * torch.randn(64, 3, 24, 24, generator=generator)
    small, known = thumbnails(held_out), thumbnails(training)
    assert small.shape == (12, 3 * 16 * 16)
    assert copied_share(thumbnails(copies), small, known) == 1
    assert copied_share(thumbnails(others), small, known) == 0
    assert copied_share(thumbnails(0 * others), small, known) == 0, "a mean of all is no copy"
    half = torch.cat([copies[:32], others[:32]])
    assert copied_share(thumbnails(half), small, known) == 0.5


def test_duplicates_among_held_out_images_are_no_reason() -> None:
    generator = torch.Generator().manual_seed(0)
    training, others = (2 * torch.rand(n, 1, 8, 8, generator=generator) - 1 for n in (8, 12))
    held_out = torch.cat([training[:4], others])
    assert copied_share(thumbnails(held_out), thumbnails(held_out), thumbnails(training)) == 0


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of four images to train on, and four held out, with a first stage that changes nothing beside it."""
    folder = tmp_path_factory.mktemp("four")
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1)).repeat(2, axis=1).repeat(2, axis=2)
    records = [{"name": f"{i}"} for i in range(8)]
    image_set.write(folder / "set", name="four", images=images.astype(np.uint8), records=records, train_count=4)
    model = Autoencoder(AutoencoderConfig(image_channels=1, latent_channels=1, regularisation="identity"))
    save_autoencoder(folder / "first", model, name="first", image_size=8, lineage={})
    return folder


@pytest.mark.long
def test_a_run_that_knows_its_images_by_heart_ends(
    four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = [
        f"data.root={four / 'set'}", f"autoencoder={four / 'first'}", f"steps={STEPS}", "batch_size=4", "device=cpu",
        "data.image_size=8", "model.unet.in_channels=1", "model.unet.channels=32", "model.unet.multipliers=[1]",
        "model.unet.res_blocks=1", "model.unet.attention_factors=[]", "model.unet.middle_attention=false",
        "ema_decay=0.98", "pictures_every=10000",
        "model.diffusion.schedule=flow", "model.diffusion.parameterisation=flow", "loss.min_snr_gamma=null",
        "optimiser.learning_rate=3e-3", "optimiser.schedule=constant", "held_out.every_steps=50",
    ]  # fmt: skip
    made = train.run("digits_unconditional", fields, tmp_path)
    shares = [row["copies"] for row in read_table(tmp_path / "held_out.csv")]
    assert len(shares) < STEPS / 100, "it ended early"
    assert shares[-1] > 0.2
    assert all(share <= 0.2 for share in shares[:-1])
    assert "of the samples are copies of training images; the run ends" in capsys.readouterr().out
    digest = release.read(made).digest
    assert release.read(train.run("digits_unconditional", fields, tmp_path)).digest == digest, "it is not trained on"


def test_the_verdict_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    judge = HeldOutJudge(cast(DiffusionRecipe, None), dict, HeldOutConfig(1, 2, 0.2), 1, tmp_path)
    judge.load({"held_out": torch.tensor([0.5, 300.0, 2.0])})
    assert (judge.best, judge.best_step, judge.copied, judge.stopped) == (0.5, 300, False, True)
    assert judge.state()["held_out"].tolist() == [0.5, 300, 2, 0]
