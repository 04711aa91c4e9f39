"""A release gets a light decoder in a few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from training import evaluate, train
from training.data.image_set import ImageSet
from training.evaluation.networks import CLASSIFIER
from training.experiments.schema import ExperimentError
from training.metrics import classifier
from training.model import release
from training.model.latent_diffusion import (
    LIGHT_DECODER_FILE,
    LatentDiffusion,
    load_diffusion,
    save_autoencoder,
    save_diffusion,
)
from training.model.light_decoder import LightDecoderConfig
from training.model.release import LIGHT_DECODER, ReleaseError
from training.recipes.light_decoder import LightDecoderRecipe

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning


@pytest.fixture
def teacher(latent_diffusion: LatentDiffusion, tmp_path: Path) -> Path:
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "card.md").write_text("# bars\n")
    save_diffusion(folder, latent_diffusion, name="bars", image_size=16)
    return folder


@pytest.fixture
def run(teacher: Path, bars_root: Path, tmp_path: Path) -> Callable[..., Path]:
    file = tmp_path / "light.yaml"
    file.write_text(yaml.safe_dump({"defaults": [{"override /data": "images"}, {"override /recipe": "light_decoder"}]}))

    def run(output: Path, *more: str) -> Path:
        given = [
            "name=bars", f"teacher={teacher}", f"data.root={bars_root}", "data.image_size=16", "steps=3",
            "batch_size=8", "device=cpu", "optimiser.learning_rate=1e-3", "pictures_every=100", "data.flip=true",
            "model.channels=8", *more,
        ]  # fmt: skip
        return train.run(str(file), given, output)

    return run


def test_the_release_has_both_decoders_and_an_interrupted_run_ends_with_the_same_bytes(
    run: Callable[..., Path], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path / "whole")
    before, made = release.read(teacher), release.read(folder)
    assert made.lineage[LIGHT_DECODER]["teacher"] == before.digest
    assert made.lineage[LIGHT_DECODER]["experiment"]["steps"] == 3
    assert made.architecture[LIGHT_DECODER] == LightDecoderConfig(8, (1, 1)).to_json()
    assert set(made.files) == {*before.files, LIGHT_DECODER_FILE, f"{LIGHT_DECODER}.png"}
    card = (folder / "card.md").read_text()
    assert card.startswith("# bars\n\n## Light decoder\n")
    for name in ("autoencoder.safetensors", "unet.safetensors", "conditioners.safetensors"):
        assert (folder / name).read_bytes() == (teacher / name).read_bytes()
    take_step = LightDecoderRecipe.take_step

    def dying(self: LightDecoderRecipe, batch: dict[str, Any], draws: Any) -> Any:
        if self.step == 2:
            raise RuntimeError("the process dies")
        return take_step(self, batch, draws)

    with monkeypatch.context() as patch:
        patch.setattr(LightDecoderRecipe, "take_step", dying)
        with pytest.raises(RuntimeError, match="dies"):
            run(tmp_path / "died", "checkpoint.every_steps=1")
    again = run(tmp_path / "died")
    assert (again / LIGHT_DECODER_FILE).read_bytes() == (folder / LIGHT_DECODER_FILE).read_bytes()
    twice = run(tmp_path / "twice", f"teacher={folder}", "model.channels=4", "steps=1")
    assert (twice / "card.md").read_text().count("## Light decoder") == 1
    assert release.read(twice).architecture[LIGHT_DECODER]["channels"] == 4


def test_a_decoder_learns_from_images_and_from_sampled_latents(
    run: Callable[..., Path], bars_root: Path, bars: ImageSet, tmp_path: Path
) -> None:
    more = ("loss.sampled_share=0.5", "loss.sampled=4", "loss.image_weight=0", "ema_decay=0.9")
    folder = run(tmp_path / "long", *more, "steps=40", "optimiser.learning_rate=1e-2")
    short = run(tmp_path / "short", *more, "steps=1")
    model, _ = load_diffusion(folder)
    barely, _ = load_diffusion(short)
    latents = model.autoencoder.encode(bars.pixels(bars.rows("held_out")))

    def error(one: LatentDiffusion) -> float:
        return float((one.decoders["light"].decode(latents) - one.autoencoder.decode(latents)).abs().mean())

    with torch.inference_mode():
        assert error(model) < 0.8 * error(barely)
    classifier.save(classifier.train(bars, steps=2), tmp_path / "scores" / CLASSIFIER)
    scores = evaluate.run_decoders(folder, bars_root, tmp_path / "scores")
    assert scores["psnr_loss"] == pytest.approx(scores["full"]["psnr"] - scores["light"]["psnr"])
    assert scores["operations_ratio"] > 8
    assert (
        scores["light_to_full"]["psnr"]
        > evaluate.run_decoders(short, bars_root, tmp_path / "scores")["light_to_full"]["psnr"]
    )
    assert (tmp_path / "scores" / "decoders.png").is_file()
    assert "operations" in {str(cell) for cell in evaluate.table_decoders(scores).columns[0].cells}


def test_a_release_without_one_cannot_be_evaluated_so(teacher: Path, bars_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="has no light decoder; make one with darkroom distil-decoder"):
        evaluate.run_decoders(teacher, bars_root, tmp_path / "scores")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model.channels=6"], "model: channels: 6 is not allowed; permitted: multiples of 4"),
        (["model.multipliers=[1]"], "model: multipliers: 1 levels; permitted: 2, as the autoencoder"),
        (["loss.image_weight=0", "loss.decoder_weight=0"], "loss: image_weight, decoder_weight: both are 0"),
        (["loss.sampled_share=0.5", "loss.decoder_weight=0"], "loss: decoder_weight: 0 is not allowed with sampled_sh"),
        (
            ["loss.sampled_share=0.5", "data.crop=8"],
            "loss.sampled_share: 0.5 is not allowed with images of other sizes",
        ),
        (["initial=x"], "initial: x is not allowed, because a light decoder begins with random weights"),
        (["data.channels=3"], "data.channels: 3; the teacher bars needs 1"),
        (["data.image_size=17"], "data.image_size: 17 is not allowed; permitted: multiples of 2, as the teacher bars"),
        (["loss.perceptual_weight=1"], "loss:"),
    ],
    ids=["channels", "levels", "weights", "unknown", "crop", "initial", "grey", "size", "lpips"],
)
def test_settings_that_do_not_fit_are_told(
    more: list[str], message: str, run: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError) as error:
        run(tmp_path / "run", *more)
    assert message in str(error.value)


def test_an_autoencoder_samples_nothing(
    run: Callable[..., Path], latent_diffusion: LatentDiffusion, tmp_path: Path
) -> None:
    save_autoencoder(tmp_path / "first", latent_diffusion.autoencoder, name="first", image_size=16)
    with pytest.raises(ExperimentError, match="first is an autoencoder, which samples nothing; permitted: 0"):
        run(tmp_path / "run", f"teacher={tmp_path / 'first'}", "loss.sampled_share=0.5")
