import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from training.data.image_set import DataError, ImageSet
from training.metrics import classifier, targets
from training.metrics.classifier import FEATURES, Classifier
from training.metrics.features import FeatureNetwork


def test_it_recognises_digits_that_it_never_saw(digits: ImageSet, digits_classifier: Classifier) -> None:
    about = digits_classifier.about
    rows = digits.rows("held_out")
    assert about.accuracy >= 0.97
    assert about.accuracy == float(
        (digits_classifier.predict(digits.pixels(rows)) == digits.labels(rows)).double().mean()
    )
    assert about.chance == pytest.approx(0.1, abs=0.01)
    assert about.fingerprint == digits.description.fingerprint
    assert about.targets == targets.Targets("label", tuple("0123456789"))


def test_it_is_a_feature_network(digits: ImageSet, digits_classifier: Classifier) -> None:
    network: FeatureNetwork = digits_classifier
    images = digits.pixels(range(100))
    features = network.features(images)
    assert network.name == "digits-CNN features"
    assert features.shape == (100, FEATURES)
    torch.testing.assert_close(features[70:71], network.features(images[70:71]))
    probabilities = network.probabilities(features)
    assert probabilities is not None
    torch.testing.assert_close(probabilities, digits_classifier.outputs(images).softmax(1))
    with pytest.raises(ValueError, match=r"images: \(3, 32, 32\); digits-CNN features need \(1, 32, 32\)"):
        network.features(images.expand(-1, 3, -1, -1))


def test_a_seed_gives_the_same_network_every_time_and_draws_from_no_other_generator(bars: ImageSet) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, again, other = (classifier.train(bars, seed=seed, steps=20) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.digest == again.digest
    assert one.digest != other.digest
    fresh = [classifier.train(bars, seed=seed, steps=0).head.weight for seed in (0, 1)]
    assert not torch.equal(*fresh)
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_a_set_without_held_out_images_is_refused(bars: ImageSet) -> None:
    whole = replace(bars, description=replace(bars.description, train_count=48))
    with pytest.raises(DataError, match="no image is held out"):
        classifier.train(whole)


def without(images: ImageSet, *fields: str) -> ImageSet:
    records = [{k: v for k, v in record.items() if k not in fields} for record in images.records]
    return replace(images, records=records)


def test_it_learns_words_where_there_are_no_labels(bars: ImageSet) -> None:
    learned = classifier.train(without(bars, "label"), steps=60)
    assert learned.about.targets == targets.Targets("words", ("0", "1", "2"))
    assert learned.about.chance == pytest.approx(2 / 3)
    assert learned.about.accuracy > 0.95
    assert learned.probabilities(learned.features(bars.pixels([0]))) is None


def test_it_learns_which_way_is_up_where_nothing_is_known(digits: ImageSet) -> None:
    learned = classifier.train(without(digits, "label"), steps=100)
    assert learned.about.targets.kind == "turn"
    assert learned.about.accuracy > 0.6
    assert learned.about.chance < 0.35
    assert learned.probabilities(learned.features(digits.pixels([0]))) is None


def moved_dots(row: int, column: int) -> Tensor:
    """Where a dot of each of 40 images goes, (row, column): [40, 2]."""
    image = -torch.ones(40, 1, 33, 33)
    image[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1
    changed = classifier.augment(image, torch.Generator().manual_seed(0))
    assert changed[:, 0, 0].max() == pytest.approx(-1, abs=1e-5)  # what comes in at the edge is the edge's
    bright = (changed[:, 0] + 1) / (changed[:, 0] + 1).sum((1, 2), keepdim=True)
    at = torch.arange(33.0)
    return torch.stack([(bright.sum(2) * at).sum(1), (bright.sum(1) * at).sum(1)], 1)


def test_training_images_are_turned_shifted_and_zoomed_a_little() -> None:
    centre, right, down = moved_dots(16, 16), moved_dots(16, 24), moved_dots(24, 16)
    shift, across, along = centre - 16, right - centre, down - centre
    assert (shift.abs().amax(0) <= 2**0.5 * 0.06 * 33 / 0.9).all()
    assert (shift.std(0) > 0.5).all()
    turn = torch.atan2(across[:, 0], across[:, 1]).rad2deg()
    assert 7 < turn.abs().max() < 10.5
    assert ((across * along).sum(1).abs() < 0.02 * 64).all()  # still at right angles
    zoom = across.norm(dim=1) / 8
    assert 0.9 < zoom.min() < 0.95
    assert 1.05 < zoom.max() < 1.12
    torch.testing.assert_close(along.norm(dim=1) / 8, zoom, rtol=0, atol=0.02)


# -- its file ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bars_classifier(bars: ImageSet) -> Classifier:
    return classifier.train(bars, steps=5)


@pytest.fixture
def file(bars_classifier: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "new" / "bars.safetensors"
    classifier.save(bars_classifier, path)
    return path


def test_a_saved_classifier_is_the_same_when_read(bars: ImageSet, bars_classifier: Classifier, file: Path) -> None:
    read = classifier.load(file)
    assert read.about == bars_classifier.about
    assert read.digest == bars_classifier.digest
    images: Tensor = bars.pixels(range(5))
    assert torch.equal(read.features(images), bars_classifier.features(images))
    before = file.read_bytes()
    classifier.save(read, file)
    assert file.read_bytes() == before


def test_a_damaged_file_is_refused(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])  # one bit of one weight
    with pytest.raises(ValueError, match=r"^classifier: .*bars\.safetensors is damaged"):
        classifier.load(file)
    file.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"^classifier: .*bars\.safetensors is not a classifier \("):
        classifier.load(file)


def test_a_classifier_that_claims_to_be_better_is_refused(file: Path, bars_classifier: Classifier) -> None:
    content = file.read_bytes()
    accuracy = f'\\"accuracy\\": {json.dumps(bars_classifier.about.accuracy)}'.encode()
    assert content.count(accuracy) == 1
    file.write_bytes(content.replace(accuracy, accuracy[:-1] + (b"1" if accuracy[-1:] != b"1" else b"2")))
    with pytest.raises(ValueError, match="is damaged"):
        classifier.load(file)


def test_what_is_no_classifier_is_named_with_the_field(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--features: .*nowhere cannot be read \(.*\); train one$"):
        classifier.load(tmp_path / "nowhere", "--features")
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match=r"other\.safetensors is not a classifier"):
        classifier.load(other)
    for metadata in ("3", "{}", '{"digest": "", "images": 1}'):
        safetensors.torch.save_file({"x": torch.zeros(2)}, other, {"classifier": metadata})
        with pytest.raises(ValueError, match=r"other\.safetensors is not a classifier"):
            classifier.load(other)
