"""Two releases are compared by images of the same requests and seeds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from training import evaluate
from training.data import digits, image_set
from training.data.image_set import DataError, ImageSet
from training.evaluation.against import ComparisonError
from training.evaluation.networks import CLASSIFIER
from training.evaluation.second_stage import Sampling
from training.metrics import classifier
from training.model.conditioners import ClassConditioner
from training.model.latent_diffusion import load_diffusion, save_autoencoder, save_diffusion
from training.model.release import read

FEW = Sampling(images=40, steps=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module", autouse=True)
def images(root: Path) -> ImageSet:
    """The digits, and a classifier that saw them for a moment."""
    images = digits.prepare(root)
    classifier.save(classifier.train(images, steps=5), root / CLASSIFIER)
    return images


def test_a_release_cannot_be_told_from_itself(tiny_release: Path, root: Path, tmp_path: Path) -> None:
    found = evaluate.run_against(tiny_release, tiny_release, root, tmp_path, FEW)
    assert found == json.loads((tmp_path / "comparison.json").read_text())
    assert found["verdict"] == "cannot tell"
    assert found["release_digest"] == found["against_digest"]
    assert set(found["figures"]) == {
        "frechet_distance", "kernel_distance", "sliced_wasserstein_distance", "coverage", "spread", "class_accuracy",
    }  # fmt: skip
    for figure in found["figures"].values():
        assert figure["difference"] == 0
        assert figure["release"] == figure["against"]
    with Image.open(tmp_path / "comparison.png") as sheet:
        assert sheet.size == (16 * 66 + 2, 2 * 66 + 2)


def test_other_steps_make_other_images_of_the_same_requests(tiny_release: Path, root: Path, tmp_path: Path) -> None:
    found = evaluate.run_against(tiny_release, tiny_release, root, tmp_path, FEW, Sampling(images=40, steps=3))
    assert (found["sampling"]["steps"], found["sampling_against"]["steps"]) == (1, 3)
    assert found["figures"]["frechet_distance"]["difference"] != 0
    low, high = found["figures"]["frechet_distance"]["interval"]
    assert low < found["figures"]["frechet_distance"]["difference"] < high
    assert "tiny against tiny on digits" in str(evaluate.table_against(found).title)


def test_what_cannot_be_compared_is_refused_before_anything_is_sampled(
    tiny_release: Path, root: Path, tmp_path: Path
) -> None:
    model, _ = load_diffusion(tiny_release)
    save_autoencoder(tmp_path / "first", model.autoencoder, name="first", image_size=32)
    save_diffusion(tmp_path / "larger", model, name="larger", image_size=64)
    for release, other, told in (
        (tmp_path / "first", tiny_release, "first is an autoencoder; only diffusion releases"),
        (tiny_release, tmp_path / "first", "against: first is an autoencoder; only diffusion releases"),
        (tiny_release, tmp_path / "larger", r"against: larger has another image shape, \(1, 64, 64\)"),
    ):
        with pytest.raises(ComparisonError, match=told):
            evaluate.run_against(release, other, root, tmp_path / "out", FEW)
    assert not (tmp_path / "out").exists()


def test_releases_of_other_classes_are_not_compared(tiny_release: Path, root: Path, tmp_path: Path) -> None:
    def named(name: str, *words: str) -> Path:
        model, _ = load_diffusion(tiny_release)
        (field,) = model.conditioners.by_field().values()
        assert isinstance(field, ClassConditioner)
        field.names = words
        save_diffusion(tmp_path / name, model, name=name, image_size=32)
        return tmp_path / name

    first, other = named("first", *"abcdefghij"), named("other", *"abcdefghji")
    message = "against: other has other classes in class_label: class 8 is 'j'; of first, 'i'"
    with pytest.raises(ComparisonError, match=f"^{message}$"):
        evaluate.run_against(first, other, root, tmp_path / "out", FEW)
    images = image_set.read(root)
    others = replace(images, description=replace(images.description, classes=tuple("abcdefghik")))
    with pytest.raises(DataError, match=r"class_label: class 9 of the images is 'k'; of first, 'j'$"):
        evaluate.fit_images(others, read(first))


def test_few_images_are_not_compared(tiny_release: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 32"):
        evaluate.run_against(tiny_release, tiny_release, root, tmp_path / "few", Sampling(images=8, steps=1))
