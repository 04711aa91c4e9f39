"""Evaluations of few samples, of sets in which some images lack a label, and of sets with one class."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training import evaluate, evaluate_student
from training.data import image_set
from training.data.image_set import DataError, ImageSet
from training.evaluation import first_stage, light_decoder, networks, second_stage
from training.evaluation.agreement import find_judge
from training.evaluation.networks import CLASSIFIER, Networks
from training.evaluation.second_stage import Sampling
from training.metrics import classifier, mean_psnr, ssim, targets
from training.metrics.distributions import frechet_distance
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import save_autoencoder
from training.model.light_decoder import LightDecoder, LightDecoderConfig
from training.model.release import read

CLASSES = tuple("abcdefghij")


def write_set(root: Path, labels: list[int | None]) -> ImageSet:
    """Write 80 images of 32x32 pixels, 60 of them for training; the height of a bright bar is the label."""
    pixels = np.random.default_rng(0).integers(0, 60, (len(labels), 32, 32, 1)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[3 * (label or 0) : 3 * (label or 0) + 3] += 180
    records = [{"name": f"{i:02d}"} | ({} if one is None else {"label": one}) for i, one in enumerate(labels)]
    images = image_set.write(root, name="bars", images=pixels, records=records, train_count=60, classes=CLASSES)
    classifier.save(classifier.train(images, steps=5), root / CLASSIFIER)
    return images


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of ten classes; an image for training and a held-out one have no label."""
    root = tmp_path_factory.mktemp("partly")
    write_set(root, [None if i in (5, 77) else i % 10 for i in range(80)])
    return root


@pytest.mark.parametrize("count", [1, 5, 10, 13])
def test_any_number_of_samples_is_drawn(count: int, tiny_release: Path, partly: Path, tmp_path: Path) -> None:
    """Each requested class has a row."""
    images, description = image_set.read(partly), read(tiny_release)
    requested = second_stage.build_requests(description, images, count)
    samples = torch.zeros(count, 1, 32, 32)
    second_stage.draw_samples(description, images, requested, samples, tmp_path)
    assert (tmp_path / "samples.png").is_file()


def test_no_samples_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="images: 0 is not allowed; permitted: at least 1"):
        Sampling(images=0)


def test_images_without_a_label_are_left_to_the_judge_of_the_others(
    tiny_release: Path, partly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge knows classes, not the turns that are told apart where nothing is labelled."""
    monkeypatch.setattr("training.metrics.classifier.train.__kwdefaults__", {"seed": 0, "steps": 5})
    images = image_set.read(partly)
    assert targets.of_labels(images) is None  # so its features are those of another classifier
    found = evaluate.run(tiny_release, partly, tmp_path, Sampling(images=10, steps=1))
    assert 0 <= found["class_accuracy_of_held_out_images"] <= 1
    assert set(found["class_accuracy_by_class"]) == set(CLASSES)
    compared = evaluate.run_against(tiny_release, tiny_release, partly, tmp_path, Sampling(images=40, steps=1))
    assert compared["figures"]["spread"]["release"] > 0


def test_one_class_needs_no_judge(tmp_path: Path) -> None:
    images = write_set(tmp_path, [3] * 80)
    assert find_judge(images) is None


def test_equal_reconstructions_have_a_finite_psnr(tmp_path: Path) -> None:
    """JSON has no infinity, and the registry refuses it."""
    root = tmp_path / "white"
    pixels = np.full((80, 32, 32, 1), 255, np.uint8)
    records = [{"name": f"{i:02d}", "label": i % 10} for i in range(80)]
    images = image_set.write(root, name="white", images=pixels, records=records, train_count=60, classes=CLASSES)
    classifier.save(classifier.train(images, steps=5), root / CLASSIFIER)
    identity = Autoencoder(AutoencoderConfig(image_channels=1, latent_channels=1, regularisation="identity"))
    save_autoencoder(tmp_path / "release", identity, name="identity", image_size=32)
    found = evaluate.run(tmp_path / "release", root, tmp_path / "out")
    assert json.dumps(found, allow_nan=False)
    assert found["psnr"] == found["psnr_worst"] == 100.0


class CountedSet(ImageSet):
    """An image set that notes the most images that were read at once."""

    most: ClassVar[int] = 0

    def pixels(self, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        CountedSet.most = max(CountedSet.most, len(rows))
        return super().pixels(rows)


def test_a_first_stage_and_a_light_decoder_are_measured_in_parts(tmp_path: Path) -> None:
    """Memory does not grow with the number of held-out images, and the figures are those of all."""
    held_out = networks.BATCH + 50
    written = write_set(tmp_path, [i % 10 for i in range(60 + held_out)])
    whole = CountedSet(written.images, written.records, written.description)
    judges = Networks(classifier.load(tmp_path / CLASSIFIER))
    torch.manual_seed(0)
    config = AutoencoderConfig(
        image_channels=1, latent_channels=2, channels=32, multipliers=(1, 1), res_blocks=1, middle_attention=False
    )
    autoencoder = Autoencoder(config).eval()
    light = LightDecoder(LightDecoderConfig(8, config.multipliers), config).eval()
    found = first_stage.score(autoencoder, whole, tmp_path, judges)
    both = light_decoder.score(autoencoder, light, whole, tmp_path, judges)
    assert CountedSet.most <= networks.BATCH
    assert found["images"] == both["light"]["images"] == held_out
    pixels = written.pixels(written.rows("held_out"))
    with torch.inference_mode():
        latents = autoencoder.encode(pixels)
        decoded = [one.decode(latents).clamp(-1, 1) for one in (autoencoder, light)]
    assert found["psnr"] == both["full"]["psnr"] == pytest.approx(mean_psnr(decoded[0], pixels), rel=1e-5)
    assert both["light"]["psnr"] == pytest.approx(mean_psnr(decoded[1], pixels), rel=1e-5)
    assert found["ssim"] == pytest.approx(float(ssim(decoded[0], pixels).mean()), rel=1e-4)
    assert both["light_to_full"]["psnr"] == pytest.approx(mean_psnr(decoded[1], decoded[0]), rel=1e-5)
    distance = frechet_distance(judges.features.features(pixels), judges.features.features(decoded[0]))
    assert found["reconstruction_frechet_distance"] == pytest.approx(distance, rel=1e-3)


def test_images_on_which_no_student_can_be_measured_are_told_before_it_is_trained(
    tiny_release: Path, partly: Path, tmp_path: Path
) -> None:
    teacher, images = read(tiny_release), image_set.read(partly)
    evaluate_student.check(teacher, images)
    for count, told in ((80, "no image is held out"), (32, "31 training images; permitted: at least 32")):
        few = replace(images, description=replace(images.description, train_count=count))
        with pytest.raises(DataError, match=told):
            evaluate_student.check(teacher, few)
