"""Training and evaluation from end to end, for a few steps."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from tests.support.previews import small_previews
from training import encode_latents, evaluate, train
from training.data import latents
from training.data.image_set import ImageSet
from training.evaluation.networks import CLASSIFIER, find_classifier
from training.evaluation.second_stage import Sampling
from training.metrics import classifier
from training.model import release
from training.model.latent_diffusion import (
    LatentDiffusion,
    load_autoencoder,
    load_diffusion,
    save_autoencoder,
    save_diffusion,
)
from training.model.unet import UNet
from training.previews.contact_sheet import MOST_NAME

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning

SMALL_FIRST = [
    "steps=5", "batch_size=8", "model.multipliers=[1,1]", "device=cpu", "data.image_size=16", "pictures_every=4",
]  # fmt: skip
SMALL_SECOND = [
    "steps=3", "batch_size=8", "model.unet.channels=32", "model.unet.multipliers=[1]", "device=cpu",
    "data.image_size=16", "pictures_every=4",
]  # fmt: skip


SMALL = ["data.root={bars}", "data.image_size=16"]
SECOND = ["experiment=digits_diffusion", *SMALL, "autoencoder={first}"]


@pytest.fixture(autouse=True, scope="module")
def _smaller() -> Iterator[None]:
    """A hundred steps teach the classifier the bars."""
    with small_previews(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "train", partial(classifier.train, steps=100))
        yield


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def first_stage(bars_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("first")
    return train.run("digits_autoencoder", [f"data.root={bars_root}", *SMALL_FIRST], output)


@pytest.fixture(scope="module")
def classifier_file(bars: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the bars, as an evaluation trains and saves it."""
    path = tmp_path_factory.mktemp("classifier") / CLASSIFIER
    find_classifier(bars, [path])
    return path


def test_the_first_stage_is_a_release_with_all_about_it(first_stage: Path, bars: ImageSet) -> None:
    output = first_stage.parent
    assert sorted(path.name for path in output.iterdir()) == [
        "checkpoints", "config.yaml", "loss.png", "losses.csv", "pictures", "release", "tensorboard",
    ]  # fmt: skip
    model, description = load_autoencoder(first_stage)
    assert sorted(description.files) == ["autoencoder.safetensors", "card.md", "samples.png"]
    assert description.lineage["data"]["fingerprint"] == bars.description.fingerprint
    assert description.lineage["experiment"]["steps"] == 5
    assert str(output) not in json.dumps(description.lineage), "paths mean nothing elsewhere"
    assert yaml.safe_load((output / "config.yaml").read_text())["model"]["multipliers"] == [1, 1]
    assert len((output / "losses.csv").read_text().splitlines()) == 6
    assert size_of(first_stage / "samples.png") == (10 * 66 + 2, 2 * 66 + 2)
    with torch.inference_mode():
        z = model.posterior(bars.pixels(bars.rows("train"))).sample() * model.latent_scale
    assert float(z.std()) == pytest.approx(1.0, abs=0.03)
    assert (first_stage / "autoencoder.safetensors").stat().st_mode == (first_stage / "card.md").stat().st_mode


def test_the_second_stage_trains_on_given_latents_or_its_own_alike(
    first_stage: Path, bars_root: Path, classifier_file: Path, tmp_path: Path
) -> None:
    encoded = encode_latents.run(first_stage, bars_root, tmp_path / "latents")
    given = [f"data.root={bars_root}", f"autoencoder={first_stage}", *SMALL_SECOND]
    one = train.run("digits_diffusion", [*given, f"data.latents={encoded}"], tmp_path / "one")
    two = train.run("digits_diffusion", given, tmp_path / "two")
    model, description = load_diffusion(one)
    assert description.digest == release.read(two).digest
    assert description.lineage["autoencoder"] == release.read(first_stage).digest
    assert description.latent_shape == (2, 8, 8)
    assert description.conditions["required"] == ["class_label"]
    assert (one / "autoencoder.safetensors").read_bytes() == (first_stage / "autoencoder.safetensors").read_bytes()
    assert len(model.conditioners) == 1

    (tmp_path / "scores").mkdir()
    shutil.copy(classifier_file, tmp_path / "scores")
    scores = evaluate.run(one, bars_root, tmp_path / "scores", Sampling(images=6, steps=2))
    assert scores["images"] == 6
    assert scores["class_accuracy_of_held_out_images"] == 1.0
    assert 0 <= scores["class_accuracy"] <= 1


def test_an_imported_first_stage_without_a_scale_is_measured(
    first_stage: Path, bars: ImageSet, bars_root: Path, tmp_path: Path
) -> None:
    autoencoder, _ = load_autoencoder(first_stage)
    measured = float(autoencoder.latent_scale)
    autoencoder.latent_scale.fill_(1.0)
    about = {"imported_from": "model.ckpt", "latent_scale": {"value": 1.0, "from": "not measured"}}
    imported = save_autoencoder(tmp_path / "first", autoencoder, name="first", image_size=16, lineage=about)
    given = [f"data.root={bars_root}", f"autoencoder={tmp_path / 'first'}", *SMALL_SECOND]
    model, release = load_diffusion(train.run("digits_diffusion", given, tmp_path / "run"))
    assert float(model.autoencoder.latent_scale) == pytest.approx(measured, rel=0.05)
    assert release.lineage["latent_scale"]["from"] == "measured"
    assert release.lineage["autoencoder"] == imported.digest
    encoded = latents.read(encode_latents.run(tmp_path / "first", bars_root, tmp_path / "latents"))
    trained_on = latents.read(tmp_path / "run" / "latents")
    assert torch.equal(encoded.moments, trained_on.moments)
    stated = {**about, "latent_scale": {"value": 1.0, "from": "given"}}
    save_autoencoder(tmp_path / "first", autoencoder, name="first", image_size=16, lineage=stated)
    unscaled = latents.read(encode_latents.run(tmp_path / "first", bars_root, tmp_path / "unscaled"))
    torch.testing.assert_close(unscaled.moments * float(model.autoencoder.latent_scale), encoded.moments)


def test_training_again_replaces_the_release(first_stage: Path, bars_root: Path, tmp_path: Path) -> None:
    overrides = [f"data.root={bars_root}", *SMALL_FIRST]
    again = train.run("digits_autoencoder", overrides, tmp_path)
    assert release.read(again).digest == release.read(first_stage).digest, "the same seed, the same release"
    other = train.run("digits_autoencoder", [*overrides, "seed=1", "resume=false"], tmp_path)
    assert other == again
    assert release.read(other).digest != release.read(first_stage).digest


def test_fine_tuning_begins_with_the_weights_of_a_release(
    first_stage: Path, bars_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [f"data.root={bars_root}", *SMALL_FIRST, "steps=1", "optimiser.learning_rate=1e-12"]
    tuned = train.run("digits_autoencoder", [*common, f"initial={first_stage}"], tmp_path / "tuned")
    (model, _), (tuned_model, _) = load_autoencoder(first_stage), load_autoencoder(tuned)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tuned_model.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)

    given = [f"data.root={bars_root}", f"autoencoder={first_stage}", *SMALL_SECOND]
    second = train.run("digits_diffusion", given, tmp_path / "second")
    more = [*given, "steps=1", "optimiser.learning_rate=1e-12", "loss.condition_dropout=0", f"initial={second}"]
    tuned = train.run("digits_diffusion", more, tmp_path / "tuned2")
    for before, after in zip(
        load_diffusion(second)[0].parameters(), load_diffusion(tuned)[0].parameters(), strict=True
    ):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)
    assert [release.read(folder).conditions["guided"] for folder in (second, tuned)] == [True, False]

    overrides = [*common, f"initial={first_stage}", "model.res_blocks=2", f"output={tmp_path / 'other'}"]
    assert train.main(["experiment=digits_autoencoder", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("initial: its weights do not fit this experiment's model: lacks ")
    assert error.count("\n") == 1


def test_evaluating_a_first_stage_scores_its_reconstructions(
    first_stage: Path, bars: ImageSet, bars_root: Path, tmp_path: Path
) -> None:
    scores = evaluate.run(first_stage, bars_root, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == scores
    assert scores["release_digest"] == release.read(first_stage).digest
    assert scores["data_fingerprint"] == bars.description.fingerprint
    assert scores["images"] == 12
    assert 0 < scores["psnr_worst"] <= scores["psnr"] < 60
    assert -1 <= scores["ssim"] < 1
    assert (tmp_path / "reconstructions.png").is_file()


def test_evaluation_is_the_same_every_time(
    latent_diffusion: LatentDiffusion, bars_root: Path, classifier_file: Path, tmp_path: Path
) -> None:
    """The first evaluation reads a classifier that was trained before, and the second trains one."""
    folder = tmp_path / "release"
    save_diffusion(folder, latent_diffusion, name="tiny", image_size=16)
    sampling = Sampling(images=6, steps=3)
    (tmp_path / "1").mkdir()
    shutil.copy(classifier_file, tmp_path / "1")
    one = evaluate.run(folder, bars_root, tmp_path / "1", sampling)
    assert one == evaluate.run(folder, bars_root, tmp_path / "2", sampling)
    assert (tmp_path / "1" / "samples.png").read_bytes() == (tmp_path / "2" / "samples.png").read_bytes()
    assert one["distinct_share"] == 1.0
    assert one["sampling"]["steps"] == 3
    width, height = size_of(tmp_path / "1" / "samples.png")
    assert height == 3 * 66 + 2, "a row for each class"
    assert 2 * 66 + 2 < width <= 2 * 66 + 2 + MOST_NAME, "with its name"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "experiment: give one, experiment=NAME; permitted: "),
        (["experiment=digits"], "experiment: 'digits' is not known"),
        (["experiment=digits_autoencoder", *SMALL, "batch_size=99"], "permitted: 1 to 36"),
        (
            ["experiment=digits_autoencoder", *SMALL, "model.channels=33"],
            "model: channels: 33 is not a mul",
        ),
        (["experiment=digits_autoencoder", *SMALL, "model.image_channels=3"], "the images have 1"),
        (
            ["experiment=digits_autoencoder", *SMALL, "model.multipliers=[1,1,1,1,1,1]"],
            "model.multipliers: make latents 1/32 of 16 pixels",
        ),
        (
            ["experiment=digits_autoencoder", *SMALL, "loss.perceptual_weight=1"],
            "loss: loss.vgg_weights: is not set; give the path or the URL of the published weights",
        ),
        (
            ["experiment=digits_autoencoder", *SMALL, "loss.adversarial_weight=1"],
            "loss.adversarial_layers: 3 is not allowed with images of 16 pixels a side; the discriminator needs 24",
        ),
        (["experiment=digits_autoencoder", "data.root={first}"], "holds no image set"),
        (
            ["experiment=digits_autoencoder", "data.root={tmp}/new", "data.name=faces"],
            "data.root: {tmp}/new does not exist",
        ),
        (["experiment=digits_diffusion", "data.root={bars}"], "autoencoder: needed and not set"),
        (["experiment=digits_diffusion", *SMALL, "autoencoder={tmp}"], "not a release"),
        (
            [*SECOND, "data.latents={tmp}"],
            "data.latents: {tmp} holds no latents",
        ),
        (
            [*SECOND, "+model.conditioners.class_label.classes=10"],
            "model.conditioners.class_label.classes: 10; the images have 3",
        ),
        (["experiment=digits_diffusion", "data.root={bars}", "autoencoder={first}"], "data.image_size: 32; the prep"),
        (
            [*SECOND, "model.unet.in_channels=4", "model.unet.out_channels=2"],
            "model.unet.in_channels: 4; the latents and the concatenated conditions have 2 + 0 channels",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    first_stage: Path,
    bars_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def placed(text: str) -> str:
        return (
            text.replace("{bars}", str(bars_root)).replace("{tmp}", str(tmp_path)).replace("{first}", str(first_stage))
        )

    output = [f"output={tmp_path / 'out'}"] if arguments else []
    assert train.main([*map(placed, arguments), *output]) == 2
    printed = capsys.readouterr()
    assert placed(message) in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out" / "release").exists()


def test_the_command_works_from_any_folder_and_prepares_the_digits(tmp_path: Path) -> None:
    root = Path(train.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "training.train", "experiment=digits_autoencoder", "steps=1", "batch_size=2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("step 1/1  loss ")
    assert lines[-1] == "runs/digits-autoencoder/release"
    load_autoencoder(tmp_path / lines[-1])
    assert (tmp_path / "data" / "digits" / "images.json").is_file()


def test_show_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["experiment=digits_autoencoder", "--show", "steps=9"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["steps"] == 9
    assert shown["output"] == "runs/digits-autoencoder"


def test_bf16_trains_fp32_weights_close_to_those_of_fp32(first_stage: Path, bars_root: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        given = [f"data.root={bars_root}", f"autoencoder={first_stage}", f"precision={precision}", *SMALL_SECOND]
        release_folder = train.run("digits_diffusion", given, tmp_path / precision)
        rows = (tmp_path / precision / "losses.csv").read_text().splitlines()
        losses[precision] = [float(row.split(",")[1]) for row in rows[1:]]
        model, _ = load_diffusion(release_folder)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # in the compiler
def test_a_compiled_run_learns_what_an_eager_one_does(
    first_stage: Path, bars_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of torch.compile but the C++ compiler, which takes more than a minute."""
    compiled = nn.Module.compile
    monkeypatch.setattr(UNet, "compile", lambda self, **how: compiled(self, backend="aot_eager", **how))
    weights = {}
    for name in ("false", "true"):
        given = [f"data.root={bars_root}", f"autoencoder={first_stage}", f"compile={name}", *SMALL_SECOND,
                 "model.unet.attention_factors=[2]"]  # in the middle alone, which takes half as long  # fmt: skip
        model, _ = load_diffusion(train.run("digits_diffusion", given, tmp_path / name))
        weights[name] = model.unet.state_dict()
    assert list(weights["true"]) == list(weights["false"]), "no names of the compiler's in a release"
    for name, tensor in weights["true"].items():
        torch.testing.assert_close(tensor, weights["false"][name], rtol=1e-3, atol=1e-4)
