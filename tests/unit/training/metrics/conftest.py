"""The digits and a classifier of them, trained once for all test processes."""

from pathlib import Path

import pytest
from filelock import FileLock

from training.data import digits as built_in_digits
from training.data.image_set import ImageSet
from training.evaluation.networks import CLASSIFIER
from training.metrics import classifier
from training.metrics.classifier import Classifier


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return built_in_digits.prepare(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def digits_classifier(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Classifier:
    folder = tmp_path_factory.getbasetemp()
    place: Path = (folder if worker_id == "master" else folder.parent) / CLASSIFIER
    with FileLock(f"{place}.lock"):
        if not place.exists():
            classifier.save(classifier.train(digits, steps=200), place)  # fewer than half of the steps of an evaluation
        return classifier.load(place)
