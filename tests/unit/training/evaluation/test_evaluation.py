"""An evaluation says of perfect answers that they are, and of bad ones what is wrong with them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training import evaluate
from training.data import shapes
from training.data.batches import row_generator
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.rows import read_image
from training.evaluation import networks, second_stage
from training.evaluation.agreement import SCORES, Answer
from training.evaluation.fidelity import Fidelity
from training.evaluation.networks import CLASSIFIER, Networks, Weights, find_classifier
from training.evaluation.second_stage import Sampling
from training.metrics import classifier
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import LatentDiffusion, save_autoencoder, save_diffusion
from training.model.pixels import to_unit
from training.model.release import Release

HELD_OUT = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def scenes(root: Path) -> ImageSet:
    """440 scenes to train on, 40 held out, and a classifier that saw them for a moment."""
    images = shapes.prepare(root, count=12 * HELD_OUT)
    classifier.save(classifier.train(images, steps=60), root / CLASSIFIER)
    return images


@pytest.fixture(scope="module")
def seen_by(scenes: ImageSet, root: Path) -> Networks:
    return networks.load(Weights(), scenes, root, root)


@pytest.fixture(scope="module")
def fidelity(scenes: ImageSet, seen_by: Networks) -> Fidelity:
    return Fidelity(seen_by.features, scenes)


# -- alike, and no copies --------------------------------------------------------------------------


def test_real_images_are_nearer_than_spoilt_ones(scenes: ImageSet, fidelity: Fidelity) -> None:
    fresh = [shapes.render(shapes.draw_scene(row_generator(1, 0, i)), 32)[0] for i in range(300)]
    real = to_unit(torch.from_numpy(np.stack(fresh)))
    noise = 0.8 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    blurred = F.interpolate(F.avg_pool2d(real, 8), scale_factor=8.0)
    good, noisy, soft = (fidelity.scores(x) for x in (real, (real + noise).clamp(-1, 1), blurred))
    assert good["features"] == "shapes-CNN features"
    for bad in (noisy, soft):
        assert bad["frechet_distance"] > 1.2 * good["frechet_distance"]
        assert bad["kernel_distance"] > good["kernel_distance"]
        assert bad["coverage"] < good["coverage"]
    assert fidelity.distance(blurred) == soft["frechet_distance"]


def test_of_a_few_images_nothing_is_said_of_sets(scenes: ImageSet, fidelity: Fidelity) -> None:
    few = scenes.pixels([0, 1, 1])
    assert fidelity.scores(few) == {"images": 3, "distinct_share": pytest.approx(2 / 3)}


def test_copies_of_training_images_are_found(scenes: ImageSet, fidelity: Fidelity, tmp_path: Path) -> None:
    held_out = fidelity.nearest_neighbours(scenes.pixels(scenes.rows("held_out")), tmp_path)
    assert held_out["nearest_training_image"] == held_out["nearest_training_image_of_held_out_images"] > 0
    assert held_out["nearer_than_any_held_out_image"] == 0.0
    copied = fidelity.nearest_neighbours(scenes.pixels(range(100, 140)), tmp_path)
    assert copied["nearest_training_image"] == pytest.approx(0, abs=1e-5)
    assert copied["nearer_than_any_held_out_image"] == 1.0
    pairs = copied["nearest_pairs"]
    assert (len(pairs["distances"]), pairs["distances"]) == (16, sorted(pairs["distances"]))
    assert max(pairs["distances"]) < pairs["closest_held_out_image"]
    with Image.open(tmp_path / "nearest.png") as drawn:
        sheet = np.asarray(drawn)
    assert np.array_equal(sheet[2:66], sheet[68:132]), "each above itself"


def test_a_classifier_of_other_images_is_not_used(
    scenes: ImageSet, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "train", partial(classifier.train, steps=5))
    there = find_classifier(scenes, [root / CLASSIFIER, tmp_path / CLASSIFIER])
    assert there.about.steps == 60
    assert not (tmp_path / CLASSIFIER).exists()
    other = replace(scenes, description=replace(scenes.description, fingerprint="f" * 64))
    fresh = find_classifier(other, [root / CLASSIFIER, tmp_path / CLASSIFIER])
    assert fresh.about.fingerprint == "f" * 64
    assert classifier.load(tmp_path / CLASSIFIER).digest == fresh.digest != there.digest


# -- agreement -------------------------------------------------------------------------------------


def answered(
    kind: str, images: ImageSet, seen_by: Networks, fidelity: Fidelity, samples: Tensor | None = None
) -> dict[str, Any]:
    """The scores of samples, the originals if there are none given, for the held-out images' conditions."""
    rows = images.rows("held_out")
    requests = Requests({"field": kind}, scale=4, masks="boxes")
    values = [
        requests(read_image(images, row, images.records[row]), row_generator(0, 0, i))["field"]
        for i, row in enumerate(rows)
    ]
    originals = images.pixels(rows)
    given = originals if samples is None else samples
    return SCORES[kind](Answer(images, values, given, originals, seen_by, fidelity, 4))


@pytest.mark.parametrize(
    ("kind", "score", "perfect"),
    [("class", "class_accuracy", 1.0), ("text", "caption_accuracy", 1.0), ("layout", "box_overlap", 0.9),
     ("semantic_map", "map_overlap", 0.95)],
)  # fmt: skip
def test_the_originals_obey_and_other_images_do_not(
    kind: str, score: str, perfect: float, scenes: ImageSet, seen_by: Networks, fidelity: Fidelity
) -> None:
    found = answered(kind, scenes, seen_by, fidelity)
    assert found[score] >= perfect
    if kind == "class":
        assert set(found["class_accuracy_by_class"]) <= set(scenes.description.classes)
        assert set(found["class_accuracy_by_class"].values()) == {1.0}
    others = scenes.pixels(scenes.rows("held_out")).roll(1, dims=0)
    assert answered(kind, scenes, seen_by, fidelity, others)[score] < 0.5


def test_classes_of_other_sets_are_judged_by_another_network(
    bars: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "train", partial(classifier.train, steps=100))
    seen_by = networks.load(Weights(), bars, tmp_path, tmp_path)
    found = answered("class", bars, seen_by, Fidelity(seen_by.features, bars))
    assert found["judge"] == "bars CNN, seed 1"
    assert found["class_accuracy"] == found["class_accuracy_of_held_out_images"] == 1.0
    others = bars.pixels(bars.rows("held_out")).roll(1, dims=0)
    assert answered("class", bars, seen_by, Fidelity(seen_by.features, bars), others)["class_accuracy"] == 0.0


def test_super_resolution_is_set_beside_bicubic(scenes: ImageSet, seen_by: Networks, fidelity: Fidelity) -> None:
    perfect = answered("low_resolution", scenes, seen_by, fidelity)
    assert perfect["low_resolution_error"] == 0.0
    assert perfect["psnr"] == 100.0
    assert perfect["feature_distance"] == 0.0
    assert perfect["bicubic_psnr"] < 30
    assert perfect["bicubic_feature_distance"] > 0
    assert (
        perfect["bicubic_frechet_distance"]
        > fidelity.scores(scenes.pixels(scenes.rows("held_out")))["frechet_distance"]
    )
    darker = (scenes.pixels(scenes.rows("held_out")) - 20 / 127.5).clamp(-1, 1)
    assert 10 < answered("low_resolution", scenes, seen_by, fidelity, darker)["low_resolution_error"] <= 21


def test_a_changed_known_pixel_is_counted(scenes: ImageSet, seen_by: Networks, fidelity: Fidelity) -> None:
    assert answered("masked_image", scenes, seen_by, fidelity)["known_pixels_changed"] == 0
    other = scenes.pixels(scenes.rows("held_out")).clone()
    other[:, :, :, :2] = other[:, :, :, :2].roll(1, dims=0)  # some grounds differ
    found = answered("masked_image", scenes, seen_by, fidelity, other)
    assert 0 < found["known_pixels_changed"] <= 2 * 32 * HELD_OUT
    assert found["psnr"] < 100


# -- the whole -------------------------------------------------------------------------------------


TYPES: dict[str, dict[str, Any]] = {
    "class": {"classes": 12, "width": 32},
    "semantic_map": {"classes": 4, "channels": 2, "stages": 1},
    "low_resolution": {"channels": 3},
    "masked_image": {"factor": 2, "channels": 3},
}
MAPS = {"semantic_map": 2, "low_resolution": 3, "masked_image": 3}


def model_of(kinds: Sequence[str]) -> LatentDiffusion:
    torch.manual_seed(0)
    first_stage = {"image_channels": 3, "latent_channels": 2, "channels": 32, "multipliers": (1, 1), "res_blocks": 1}
    unet = {"out_channels": 2, "channels": 32, "multipliers": (1,), "res_blocks": 1, "attention_factors": (1,)}
    unet |= {
        "in_channels": 2 + sum(MAPS.get(kind, 0) for kind in kinds),
        "context_width": 32 if "class" in kinds else None,
    }
    return LatentDiffusion.build(
        {
            "autoencoder": {**first_stage, "middle_attention": False},
            "unet": unet,
            "conditioners": {f"the_{kind}": {"type": kind, **TYPES[kind]} for kind in kinds},
            "diffusion": {},
        }
    ).eval()


@pytest.mark.parametrize(
    ("kinds", "scores", "rows"),
    [
        ([], set(), 4),
        (["class"], {"class_accuracy"}, 12),
        (["semantic_map"], {"map_overlap"}, 3),
        (["low_resolution"], {"low_resolution_error", "bicubic_frechet_distance"}, 3),
        (["masked_image"], {"known_pixels_changed"}, 3),
        (["class", "masked_image"], {"class_accuracy", "known_pixels_changed"}, 3),
    ],
)
def test_a_release_of_each_kind_is_scored_and_shown(
    kinds: list[str], scores: set[str], rows: int, scenes: ImageSet, root: Path, tmp_path: Path
) -> None:
    save_diffusion(tmp_path / "release", model_of(kinds), name="model", image_size=32)
    found = evaluate.run(tmp_path / "release", root, tmp_path / "out", Sampling(images=48, steps=1))
    assert scores <= set(found)
    assert found.get("known_pixels_changed", 0) == 0
    assert found["images"] == 48
    assert found["frechet_distance"] > found["held_out_images"]["frechet_distance"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found
    with Image.open(tmp_path / "out" / "samples.png") as drawn:
        assert drawn.size[1] // 66 == rows
    assert (tmp_path / "out" / "nearest.png").is_file()
    assert not (tmp_path / "out" / CLASSIFIER).exists(), "the set's own was used"


def test_questions_are_as_many_as_asked_for(scenes: ImageSet) -> None:
    def asked(kinds: list[str], count: int) -> second_stage.EvaluationRequests:
        architecture = model_of(kinds).architecture()
        return second_stage.build_requests(
            Release("x", "diffusion", architecture, (3, 32, 32), (2, 16, 16), {}), scenes, count
        )

    labels = [request["the_class"] for request in asked(["class"], 30).requests]
    assert len(labels) == 30
    assert {labels.count(label) for label in range(12)} == {2, 3}
    again = asked(["low_resolution"], HELD_OUT + 3)
    assert again.rows is not None
    assert again.rows[0] == again.rows[HELD_OUT] == 11 * HELD_OUT
    assert np.array_equal(again.requests[1]["the_low_resolution"], again.requests[HELD_OUT + 1]["the_low_resolution"])


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        (AutoencoderConfig(regularisation="identity", image_channels=3, latent_channels=3), 1.0),
        (AutoencoderConfig(image_channels=3, channels=32, multipliers=(1,), res_blocks=1, middle_attention=False), 0.0),
    ],
)
def test_a_first_stage_is_told_what_its_reconstructions_still_show(
    config: AutoencoderConfig, shown: float, scenes: ImageSet, root: Path, tmp_path: Path
) -> None:
    """The identity keeps all that was asked for, untrained weights nothing."""
    torch.manual_seed(0)
    save_autoencoder(tmp_path / "release", Autoencoder(config), name="first", image_size=32)
    found = evaluate.run(tmp_path / "release", root, tmp_path / "out")
    assert found["caption_accuracy"] == pytest.approx(shown, abs=0.05)
    assert found["class_accuracy"] == pytest.approx(shown, abs=0.15)  # one of twelve by chance
    assert found["box_overlap"] == pytest.approx(shown, abs=0.1)
    assert found["map_overlap"] == pytest.approx(shown, abs=0.3)  # the ground is a class


def test_the_command_prints_a_table_and_mistakes_are_one_line(
    scenes: ImageSet, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of([])
    save_autoencoder(tmp_path / "first", model.autoencoder, name="first", image_size=32)
    command = [str(tmp_path / "first"), str(root), str(tmp_path / "out")]
    assert evaluate.main(command) == 0
    output = capsys.readouterr().out
    assert "first on shapes" in output
    assert "reconstruction frechet distance" in output
    for more, wrong in (
        (["--inception", "nowhere.pth"], "inception: nowhere.pth cannot be read"),
        (["--clip", "nowhere"], "clip: nowhere is not a folder"),
        (["--vgg", "nowhere.pth"], "loss.vgg_weights: nowhere.pth does not exist"),
    ):
        assert evaluate.main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith(wrong)
        assert error.count("\n") == 1
