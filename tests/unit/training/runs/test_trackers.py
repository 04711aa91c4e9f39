"""Losses and previews go to the loggers that an experiment names; MLflow and W&B where they are installed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from tests.support.previews import small_previews
from tests.unit.training.conftest import tiny_autoencoder
from training import train
from training.experiments import compose
from training.experiments.schema import ExperimentError
from training.model import release
from training.model.latent_diffusion import save_autoencoder
from training.runs import trackers

pytestmark = pytest.mark.filterwarnings(
    "ignore:.isinstance.treespec, LeafSpec:FutureWarning",  # in Lightning
    "ignore::DeprecationWarning:(mlflow|wandb|opentelemetry).*",
    "ignore::FutureWarning:mlflow.*",
)
SMALL = [
    "batch_size=4", "model.unet.channels=32", "model.unet.multipliers=[1]", "device=cpu", "data.image_size=16",
    "optimiser.schedule=constant", "optimiser.warmup_steps=0", "held_out.every_steps=2",
    "held_out.copies=null",
]  # fmt: skip


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed: pip install 'darkroom[{module}]'")


@pytest.fixture(autouse=True, scope="module")
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


def run(folder: Path, data: Path, *more: str) -> Path:
    first = folder / "first"
    if not first.exists():
        save_autoencoder(first, tiny_autoencoder(), name="first", image_size=16, lineage={})
    return train.run("digits_diffusion", [*SMALL, f"data.root={data}", f"autoencoder={first}", *more], folder / "run")


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_extra_is_named_before_anything_is_prepared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose.load("digits_diffusion", ["autoencoder=x", f"logger=[tensorboard,{name}]"])
    monkeypatch.setattr(trackers, "EXTRAS", {name: "no_such_module"})
    with pytest.raises(ExperimentError, match=rf"logger: {name} is not installed; .*'darkroom\[{name}\]'"):
        trackers.check(config)


def test_mlflow_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose.load("digits_diffusion", ["autoencoder=x", "logger=mlflow"])
    monkeypatch.setattr(trackers, "EXTRAS", {"mlflow": "json"})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ExperimentError, match="logger: mlflow needs the variable MLFLOW_TRACKING_URI"):
        trackers.check(config)


def test_an_unknown_logger_is_refused() -> None:
    with pytest.raises(ExperimentError, match="logger"):
        compose.load("digits_diffusion", ["autoencoder=x", "logger=comet"])


@needs("mlflow")
def test_mlflow_has_the_losses_of_a_run_and_goes_on_with_it(
    bars_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    address = f"file:{tmp_path / 'store'}"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"darkroom.pipeline_run": "full-7"}')
    made = run(tmp_path, bars_root, "logger=[tensorboard,mlflow]", "steps=2", "pictures_every=1")
    assert "logger" not in release.read(made).lineage["experiment"]
    run(tmp_path, bars_root, "logger=[tensorboard,mlflow]", "steps=4", "pictures_every=10")
    client = MlflowClient(address)
    (experiment,) = (one for one in client.search_experiments() if one.name == "digits")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.tags["darkroom.pipeline_run"] == "full-7"
    assert found.data.params["batch_size"] == "4"
    steps = [point.step for point in client.get_metric_history(found.info.run_id, "held_out_loss")]
    assert steps == [2, 4], "the second command went on with the run of the first"
    assert [point.step for point in client.get_metric_history(found.info.run_id, "loss")] == [2, 4]
    assert list((tmp_path / "store").glob("**/*.png")), "a preview"
    assert list((tmp_path / "run" / "tensorboard").iterdir())


@needs("wandb")
def test_wandb_has_a_run_without_a_network(
    bars_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path, bars_root, "logger=wandb", "steps=2", "pictures_every=1")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    (about,) = (tmp_path / "run" / "checkpoints").glob("*/run.json")
    assert written.stem.removeprefix("run-") in about.read_text(), "a resumed run goes on with it"
    assert list(written.parent.glob("files/media/images/*.png"))
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_training_outlives_its_server(
    bars_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("503 from the server")

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", fail)
    assert release.read(run(tmp_path, bars_root, "steps=2", "pictures_every=10"))
    told = capsys.readouterr().out
    assert told.count("note: logger: tensorboard failed and is left out from here on: 503 from the server") == 1
