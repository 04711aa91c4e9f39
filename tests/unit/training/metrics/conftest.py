"""The digits and a classifier of them, trained once."""

import pytest

from training.data import digits as built_in_digits
from training.data.image_set import ImageSet
from training.metrics import classifier
from training.metrics.classifier import Classifier


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return built_in_digits.prepare(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def digits_classifier(digits: ImageSet) -> Classifier:
    return classifier.train(digits)
