"""What an item asks beside its conditions does what the formulas say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.job_requests.image_spec import ImageSpec
from services.worker.engine import Developed, Engine
from training.model.noise import seeded_noise
from training.model.pixels import to_bytes
from training.model.sampling import Sampler, generate, trajectory


@pytest.fixture(scope="module")
def engine(tiny_release: Path) -> Engine[object]:
    return Engine[object](tiny_release, rows=8, device="cpu")


def make(engine: Engine[object], spec: ImageSpec, **item: Any) -> NDArray[np.uint8]:
    """Return the pixels of one image."""
    engine.add("owner", engine.request(spec, engine.read_conditions({"class_label": 3, **item})))
    while engine.busy:
        for done in engine.step():
            assert isinstance(done, Developed), done
            return done.pixels
    raise AssertionError("no image")


def test_a_negative_condition_takes_the_place_of_the_null_one(engine: Engine[object]) -> None:
    """eps = eps(negative) + s (eps(condition) - eps(negative)): Ho & Salimans 2022, eq. 6, in float64."""
    scale, seed = 3.0, 5
    found = make(engine, ImageSpec(0, 0, seed, 1, "ddim", scale), negative={"class_label": 8})
    model = engine.model
    path = trajectory(model, Sampler("ddim", 1))
    x = seeded_noise(seed, 0, engine.release.latent_shape)[None]
    t = torch.tensor(path.t)
    with torch.inference_mode():
        wanted, other = (
            model.predict(x, t.float(), model.conditions([{"class_label": label}], (8, 8))).double() for label in (3, 8)
        )
        eps = other + scale * (wanted - other)
        latent = (x.double() - float(path.sigma[0]) * eps) / float(path.alpha[0])
        expected = to_bytes(model.autoencoder.decode(latent.float()))[0]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert (found != make(engine, ImageSpec(0, 0, seed, 1, "ddim", scale))).mean() > 0.1


def test_a_negative_condition_equal_to_the_condition_has_no_effect(engine: Engine[object]) -> None:
    guided = make(engine, ImageSpec(0, 0, 5, 3, "ddim", 4.0), negative={"class_label": 3})
    assert np.array_equal(guided, make(engine, ImageSpec(0, 0, 5, 3, "ddim", 1.0)))


def test_a_negative_condition_that_cannot_be_used_is_named(engine: Engine[object]) -> None:
    with pytest.raises(ValueError, match=r"negative\.class_label: 10 is not allowed; permitted: an"):
        make(engine, ImageSpec(0, 0, 5, 3, "ddim", 4.0), negative={"class_label": 10})


def test_eta_is_that_of_ddim(engine: Engine[object]) -> None:
    found = make(engine, ImageSpec(0, 0, 5, 4, "ddim", 1.0, eta=0.5))
    sampler, shape = Sampler("ddim", 4, eta=0.5), engine.release.latent_shape
    expected = to_bytes(generate(engine.model, [{"class_label": 3}], [5], latent_shape=shape, sampler=sampler))[0]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert not np.array_equal(found, make(engine, ImageSpec(0, 0, 5, 4, "ddim", 1.0)))
