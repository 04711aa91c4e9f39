"""What an item asks beside its conditions does what the formulas say."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.job_requests.image_spec import ImageSpec
from services.worker.engine import Engine, start_noise
from services.worker.images import Developed
from tests.support.images import as_base64, image_file
from training.model.batch import KNOWN_NOISE
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


def test_noise_is_mixed_on_the_great_circle(engine: Engine[object]) -> None:
    """sin((1 - w) a) / sin(a) x + sin(w a) / sin(a) y, where cos(a) = x y / |x| |y| (Shoemake 1985), in float64."""
    shape = engine.release.latent_shape
    x, y = (seeded_noise(seed, 0, shape).double().numpy() for seed in (5, 6))
    angle = np.arccos((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    for share in (0.0, 0.3, 1.0):
        expected = (np.sin((1 - share) * angle) * x + np.sin(share * angle) * y) / np.sin(angle)
        found = start_noise(ImageSpec(0, 0, 6, 3, "ddim", 1.0, between=(5, 6, share)), shape)
        assert np.abs(found.numpy() - expected).max() < 1e-6


def test_a_walk_begins_and_ends_with_the_images_of_its_ends(engine: Engine[object]) -> None:
    def frame(share: float) -> NDArray[np.uint8]:
        spec = ImageSpec(0, 0, 5, 3, "ddim", 2.0, between=(5, 6, share))
        return make(engine, spec, toward={"class_label": 8, "seed": 6, "share": share})

    assert np.array_equal(frame(0.0), make(engine, ImageSpec(0, 0, 5, 3, "ddim", 2.0)))
    assert np.array_equal(frame(1.0), make(engine, ImageSpec(0, 0, 6, 3, "ddim", 2.0), class_label=8))
    assert len({frame(share).tobytes() for share in (0.0, 0.4, 0.6, 1.0)}) == 4


def test_conditions_are_mixed_as_embedded(engine: Engine[object]) -> None:
    model = engine.model
    tokens = [model.conditioners([{"class_label": label}], (8, 8), model.autoencoder.encode).tokens for label in (3, 8)]
    expected = model.unet.keys_values(0.75 * tokens[0] + 0.25 * tokens[1])[0]
    read = engine.read_conditions({"class_label": 3, "toward": {"class_label": 8, "share": 0.25}})
    (pair,) = engine.pack.embedder.embed_pairs([read])
    assert isinstance(pair, tuple)
    assert pair[0].keys_values is not None
    assert torch.allclose(pair[0].keys_values, expected, atol=1e-6)


# -- beginning with an image ---------------------------------------------------------------------

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (32, 32), dtype=np.uint8)
HOLE = np.zeros((32, 32), np.uint8)
HOLE[8:20, 12:30] = 255
ABAR = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)  # the authors' schedule


def file_of(pixels: NDArray[np.uint8]) -> str:
    return as_base64(image_file(pixels))


def reference(engine: Engine[object], timesteps: list[int], *, seed: int, hole: NDArray[np.uint8] | None) -> Any:
    """DDIM in float64 as the authors' `ddim.py` has it, from q_sample of the picture, with its mask and x0."""
    model, shape = engine.model, engine.release.latent_shape
    keep = 0.0 if hole is None else 1 - torch.from_numpy(hole / 255).reshape(8, 4, 8, 4).amax((1, 3))
    with torch.inference_mode():
        x0 = model.autoencoder.encode(torch.from_numpy(PICTURE / 127.5 - 1)[None, None].float()).double()
        conditions = model.conditions([{"class_label": 3}], (8, 8))
        noise = seeded_noise(seed, 0, shape)[None].double()
        a = ABAR[timesteps[0]]
        x = noise if timesteps[0] == 999 else a**0.5 * x0 + (1 - a) ** 0.5 * noise
        for i, t in enumerate(timesteps):
            a = ABAR[t]
            after = ABAR[timesteps[i + 1]] if i + 1 < len(timesteps) else 1.0
            if hole is not None:
                fresh = seeded_noise(seed, KNOWN_NOISE + i, shape)[None].double()
                x = keep * (a**0.5 * x0 + (1 - a) ** 0.5 * fresh) + (1 - keep) * x
            eps = model.predict(x.float(), torch.tensor([float(t)]), conditions).double()
            x = after**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - after) ** 0.5 * eps
        latent = keep * x0 + (1 - keep) * x
        return to_bytes(model.autoencoder.decode(latent.float()))[0]


def test_strength_is_the_share_of_steps_from_the_noised_image(engine: Engine[object]) -> None:
    """As diffusers' img2img: of 5 steps int(0.5 x 5) = 2, from timestep 399 of the trailing ones."""
    spec = ImageSpec(0, 0, 5, 5, "ddim", 1.0, strength=0.5)
    found = make(engine, spec, image=file_of(PICTURE))
    expected = reference(engine, [399, 199], seed=5, hole=None)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_an_image_is_painted_in_the_hole_and_kept_around_it(engine: Engine[object]) -> None:
    found = make(engine, ImageSpec(0, 0, 5, 4, "ddim", 1.0), image=file_of(PICTURE), mask=file_of(HOLE))
    expected = reference(engine, [999, 749, 499, 249], seed=5, hole=HOLE)
    inside = HOLE > 0
    assert np.array_equal(found[~inside, 0], PICTURE[~inside])
    assert np.abs(found[inside].astype(int) - expected[inside].astype(int)).max() <= 1
    assert (found[inside, 0] != PICTURE[inside]).mean() > 0.9


def test_a_hole_is_painted_from_the_noised_image_with_a_strength(engine: Engine[object]) -> None:
    spec = ImageSpec(0, 0, 5, 5, "ddim", 1.0, strength=0.5)
    found = make(engine, spec, image=file_of(PICTURE), mask=file_of(HOLE))
    expected = reference(engine, [399, 199], seed=5, hole=HOLE)
    inside = HOLE > 0
    assert np.abs(found[inside].astype(int) - expected[inside].astype(int)).max() <= 1


def test_an_image_of_another_size_is_resized(engine: Engine[object]) -> None:
    spec = ImageSpec(0, 0, 5, 5, "ddim", 1.0, strength=0.5)
    large, hole = (np.repeat(np.repeat(part, 2, 0), 2, 1) for part in (np.full_like(PICTURE, 90), HOLE))
    found = make(engine, spec, image=file_of(large), mask=file_of(hole))
    assert np.array_equal(found, make(engine, spec, image=file_of(large[::2, ::2]), mask=file_of(HOLE)))


def test_equal_images_are_encoded_once(engine: Engine[object], monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Mock(wraps=engine.model.autoencoder.encode)
    monkeypatch.setattr(engine.model.autoencoder, "encode", encode)
    picture = file_of(255 - PICTURE)
    made = [make(engine, ImageSpec(0, 0, seed, 5, "ddim", 1.0, strength=0.5), image=picture) for seed in range(3)]
    assert encode.call_count == 1
    assert len({one.tobytes() for one in made}) == 3
