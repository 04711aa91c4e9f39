"""A second stage is judged on held-out images: the best weights are kept, and a run that gets worse ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.previews import small_previews
from tests.unit.training.conftest import tiny_autoencoder
from training import train
from training.experiments import compose
from training.experiments.schema import ExperimentError
from training.model import release
from training.model.latent_diffusion import load_diffusion, save_autoencoder
from training.runs.progress import read_table

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning

STEPS = 12
SMALL = [
    f"steps={STEPS}", "batch_size=8", "model.unet.channels=32", "model.unet.multipliers=[1]", "device=cpu",
    "data.image_size=16", "pictures_every=50", "optimiser.schedule=constant", "optimiser.warmup_steps=0",
    "held_out.copies=null",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    save_autoencoder(folder, tiny_autoencoder(), name="first", image_size=16, lineage={})
    return folder


def run(first: Path, data: Path, output: Path, *more: str) -> Path:
    return train.run("digits_diffusion", [*SMALL, f"data.root={data}", f"autoencoder={first}", *more], output)


def test_a_run_that_gets_worse_ends_and_its_release_has_the_best_weights(
    first: Path, bars_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worsening = ["optimiser.learning_rate=0.3", "held_out.every_steps=1", "held_out.patience=2"]
    made = run(first, bars_root, tmp_path, *worsening)
    losses = [row["loss"] for row in read_table(tmp_path / "held_out.csv")]
    best = min(range(len(losses)), key=lambda i: losses[i])
    assert len(losses) == best + 3 < STEPS, "it ends two measurements after the best one"
    assert f"has not fallen since step {best + 1}; the run ends" in capsys.readouterr().out
    (last,) = sorted((tmp_path / "checkpoints").iterdir())
    kept = load_file(last / "state.safetensors")
    weights = load_diffusion(made)[0].unet.state_dict()
    assert all(weights[name].equal(kept[f"best.unet.{name}"]) for name in weights)
    assert not all(weights[name].equal(kept[f"recipe.average.unet.{name}"]) for name in weights)

    digest = release.read(made).digest
    assert release.read(run(first, bars_root, tmp_path, *worsening)).digest == digest
    assert len(read_table(tmp_path / "held_out.csv")) == len(losses), "an ended run is not trained again"


def test_the_verdict_survives_an_interruption(first: Path, bars_root: Path, tmp_path: Path) -> None:
    judged = ["held_out.every_steps=2", "optimiser.learning_rate=1e-3"]
    whole = run(first, bars_root, tmp_path / "whole", *judged)
    run(first, bars_root, tmp_path / "parts", *judged, "steps=6")  # a constant rate: steps may be added
    parts = run(first, bars_root, tmp_path / "parts", *judged)
    assert read_table(tmp_path / "parts" / "held_out.csv") == read_table(tmp_path / "whole" / "held_out.csv")
    assert release.read(parts).digest == release.read(whole).digest


def test_patience_without_measurements_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"held_out\.patience: 3 is not allowed without held_out\.every_steps"):
        compose.load("digits_diffusion", ["autoencoder=x", "held_out.patience=3"])
