"""Images that have every kind of condition, and what makes experiments for them."""

from functools import partial

import pytest

from tests.support.conditioned import Configured, configure, written
from training.data.image_set import ImageSet
from training.experiments import compose
from training.experiments.schema import DiffusionExperiment


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return written(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def base() -> DiffusionExperiment:
    config = compose.load("digits_diffusion", ["autoencoder=somewhere"])
    assert isinstance(config, DiffusionExperiment)
    return config


@pytest.fixture
def configured(base: DiffusionExperiment) -> Configured:
    """See `configure`."""
    return partial(configure, base)
