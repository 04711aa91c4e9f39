"""Both stages train on whole images of several shapes, and a run that died goes on with the same batches."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.previews import small_previews
from training import train
from training.data import image_set, latents
from training.experiments.schema import ExperimentError
from training.model import release
from training.model.latent_diffusion import load_diffusion
from training.model.sampling import Sampler, generate

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning

SHAPES = ((40, 40), (50, 30), (30, 50))
COMMON = ["batch_size=6", "device=cpu", "steps=6", "checkpoint.every_steps=2", "checkpoint.keep=9", "data=images",
          "data.image_size=16", "data.bucket_step=4", "data.flip=true", "pictures_every=6",
          "data.held_out=0.2"]  # fmt: skip
FIRST = ["model.channels=32", "model.multipliers=[1,1]", "model.res_blocks=1", "model.middle_attention=false",
         "loss.adversarial_weight=0", "loss.equivariance=0.5"]  # fmt: skip
SECOND = ["model.unet.channels=32", "model.unet.multipliers=[1,1]", "model.unet.res_blocks=1",
          "model.unet.attention_factors=[2]", "model.unet.context_width=32", "model.conditioners.caption.depth=1",
          "held_out.every_steps=3"]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures of three aspect ratios, each with a caption."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(30):
        size = SHAPES[number % 3]
        noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).save(root / f"{number:02}.png")
        (root / f"{number:02}.txt").write_text(f"{size[0]} by {size[1]}")
    return root


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[str], Path]]:
    """Name, overrides and output of each stage."""
    folder = tmp_path_factory.mktemp("runs")
    common = [*COMMON, f"data.root={pictures}", f"data.prepared={folder / 'set'}"]
    first = ("shapes_autoencoder", [*common, *FIRST], folder / "first")
    second = ("shapes_text", [*common, *SECOND, f"autoencoder={folder / 'first/release'}"], folder / "second")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with small_previews():
            for stage in (first, second):
                train.run(*stage)
    finally:
        torch.set_num_threads(threads)
    return {"first": first, "second": second}


def test_batches_of_all_shapes_are_trained_on_and_encoded(trained, pictures) -> None:
    *_, output = trained["second"]
    encoded = latents.read(output / "latents")
    assert {tuple(part.shape[-2:]) for part in encoded.parts} == {(8, 8), (6, 10), (10, 6)}
    made = image_set.read(output.parent / "set")
    assert made.whole is not None
    assert sum(map(len, encoded.parts)) == made.description.train_count < 30
    with (output / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    model, description = load_diffusion(output / "release")
    assert description.image_shape == (3, 16, 16)
    wide = generate(model, [{"caption": "50 by 30"}], [0], latent_shape=(description.latent_shape[0], 6, 10),
                    sampler=Sampler("ddim", 2))  # fmt: skip
    assert wide.shape == (1, 3, 12, 20)


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_run_that_died_ends_with_the_same_bytes(stage: str, trained, tmp_path) -> None:
    name, overrides, output = trained[stage]
    shutil.copytree(output, tmp_path / "died")
    shutil.rmtree(tmp_path / "died/release")
    for saved in (tmp_path / "died/checkpoints").iterdir():
        if not saved.name.endswith("2"):
            shutil.rmtree(saved)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with small_previews():
            train.run(name, overrides, tmp_path / "died")
    finally:
        torch.set_num_threads(threads)
    assert release.read(tmp_path / "died/release").digest == release.read(output / "release").digest


@pytest.mark.parametrize(
    ("stage", "overrides", "told"),
    [
        ("first", ["data.bucket_step=5"], r"data\.bucket_step: 5 is not allowed; permitted: divisors of image_size=16"),
        ("first", ["data.bucket_step=1"], r"data\.bucket_step: 1 is not allowed; permitted: multiples of 2, "),
        ("second", ["data.bucket_step=2"], r"data\.bucket_step: 2 is not allowed; permitted: multiples of 4, "),
        ("first", ["data.crop=8"], r"data\.crop: whole images of several shapes are not cropped"),
        ("first", ["data.bucket_step=null"], r"data\.bucket_step: None; the prepared images in .* are whole images"),
        (
            "second",
            ["+model.conditioners.small={type: low_resolution}", "data.crop=null"],
            r"model\.conditioners\.small: low_resolution is not allowed with data\.bucket_step; permitted: class",
        ),
    ],
)
def test_what_whole_images_cannot_do_is_told(stage: str, overrides: list[str], told: str, trained, tmp_path) -> None:
    name, given, output = trained[stage]
    root = [f"data.root={output.parent / 'set'}"]
    with pytest.raises(ExperimentError, match=told):
        train.run(name, [*given, *root, *overrides], tmp_path / "out")
