"""Images and latents that stay on a volume: stages pass on a pointer, and read through it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kfp_pipelines.stages import entry, training
from tests.support.previews import small_previews
from training.data import image_set, latents, pointer
from training.data.image_set import DataError
from training.model import release

OWN = ["data.image_size=16", "data.channels=3", "data.name=dots", "data.held_out=0"]
SMALL = ["model.channels=32", "model.multipliers=[1]", "model.latent_channels=2", "steps=2", "batch_size=4",
         "pictures_every=10", "checkpoint.every_steps=1"]  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    draw = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(draw.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _small_previews() -> Iterator[None]:
    with small_previews():
        yield


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_prepared_images_are_an_artifact_unless_a_folder_is_given(originals: Path, tmp_path: Path) -> None:
    overrides = [f"data.root={originals}", *OWN]
    fingerprint = training.prepare("images", overrides, tmp_path / "artifact")
    assert image_set.IMAGES in files(tmp_path / "artifact")

    place = tmp_path / "volume" / "dots"
    assert training.prepare("images", [*overrides, f"data.prepared={place}"], tmp_path / "second") == fingerprint
    assert pointer.POINTER in files(tmp_path / "second")
    assert image_set.IMAGES not in files(tmp_path / "second")
    assert image_set.read(tmp_path / "second").description == image_set.read(place).description

    prepared = [f"data.root={place}", *OWN]
    assert training.prepare("images", prepared, tmp_path / "third") == fingerprint
    assert pointer.resolve(tmp_path / "third") == place


def test_an_unmounted_volume_is_named(originals: Path, tmp_path: Path) -> None:
    place = tmp_path / "volume" / "dots"
    training.prepare("images", [f"data.root={originals}", *OWN, f"data.prepared={place}"], tmp_path / "artifact")
    (tmp_path / "volume").rename(tmp_path / "gone")
    with pytest.raises(DataError, match=rf"points to the image set in {place}, which does not exist; is its volume"):
        image_set.read(tmp_path / "artifact")


def test_training_reads_through_pointers_and_keeps_only_useful_files(originals: Path, tmp_path: Path) -> None:
    training.prepare(
        "images", [f"data.root={originals}", *OWN, f"data.prepared={tmp_path}/volume/dots"], tmp_path / "set"
    )
    images = {"data.root": str(tmp_path / "set")}
    for attempt in ("first", "other"):
        more = ["seed=1"] if attempt == "other" else []
        entry.train("shapes_autoencoder", [*SMALL, *more], images, str(tmp_path / attempt), "")
        left = {path.name for path in (tmp_path / attempt).iterdir()}
        assert "release" in left
        assert not left & set(training.WORKINGS)

    shared = tmp_path / "volume" / "latents"
    unet = {"in_channels": 2, "out_channels": 2, "channels": 32, "multipliers": [1], "attention_factors": [1]}
    diffusion = [f"data.latents={shared}", *SMALL[3:], *(f"model.unet.{k}={v}" for k, v in unet.items())]
    for attempt in ("first", "other", "first"):
        folder = tmp_path / f"latents-{attempt}"
        training.encode("shapes_unconditional", diffusion, tmp_path / attempt / "release", tmp_path / "set", folder)
        assert files(folder) == {pointer.POINTER}
        assert latents.read(folder).description.autoencoder == release.read(tmp_path / attempt / "release").digest
    assert len([path for path in shared.iterdir() if path.is_dir()]) == 2, "one for each first stage"

    inputs = {**images, "data.latents": str(tmp_path / "latents-first"), "autoencoder": f"{tmp_path}/first/release"}
    entry.train("shapes_unconditional", diffusion, inputs, str(tmp_path / "diffusion"), "")
    assert release.read(tmp_path / "diffusion" / "release").kind == "diffusion"
    assert os.listdir(tmp_path / "diffusion" / "release")
