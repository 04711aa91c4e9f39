"""A release with a light decoder in the engine: each image has its own decoder, and none depends on its company."""

import random
from pathlib import Path

import numpy as np
import pytest

from services.job_requests.image_spec import ImageSpec
from services.worker.engine import Engine
from services.worker.images import Developed
from tests.support.releases import make_light_release
from training.model.guidance import Guidance
from training.model.pixels import to_bytes
from training.model.release import DecoderName
from training.model.sampling import Sampler, generate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_light_release(tmp_path_factory.mktemp("release") / "light")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine[object]:
    return Engine[object](folder, rows=8, device="cpu")


def spec(seed: int, decoder: DecoderName, steps: int = 2) -> ImageSpec:
    return ImageSpec(seed, 0, seed, steps, "ddim", 2.0, decoder=decoder)


MIX = [spec(seed, "light" if seed % 3 else "full", 1 + seed % 4) for seed in range(13)]


def develop(engine: Engine[object], images: list[ImageSpec]) -> dict[int, Developed[object]]:
    for one in images:
        engine.add("owner", engine.request(one, engine.read_conditions({"class_label": one.seed % 10})))
    done: dict[int, Developed[object]] = {}
    while engine.busy:
        for made in engine.step():
            assert isinstance(made, Developed), made
            done[made.spec.seed] = made
    return done


def test_an_image_is_the_same_alone_and_beside_images_of_the_other_decoder(engine: Engine[object]) -> None:
    together = {seed: made.pixels.tobytes() for seed, made in develop(engine, MIX).items()}
    assert len(together) == len(MIX)
    shuffled = MIX.copy()
    random.Random(0).shuffle(shuffled)
    assert {seed: made.pixels.tobytes() for seed, made in develop(engine, shuffled).items()} == together
    for one in MIX[:2]:
        ((seed, made),) = develop(engine, [one]).items()
        assert made.pixels.tobytes() == together[seed]


def test_each_decoder_makes_its_own_image_and_is_named_by_the_profile(engine: Engine[object]) -> None:
    full, light = (develop(engine, [spec(5, name)])[5] for name in ("full", "light"))
    for made, name in ((full, "full"), (light, "light")):
        expected = generate(
            engine.model, [{"class_label": 5}], [5], latent_shape=engine.release.latent_shape,
            sampler=Sampler("ddim", 2), guidance=Guidance(2.0), decoder=made.spec.decoder,
        )  # fmt: skip
        assert np.abs(made.pixels.astype(int) - to_bytes(expected)[0].astype(int)).max() <= 1, name
    assert full.pixels.tobytes() != light.pixels.tobytes()
    assert full.profile == engine.profile
    assert light.profile.rpartition("#")[0] == f"{full.profile.rpartition('#')[0]}/light-decoder"
    assert light.profile.rpartition("#")[2] != full.profile.rpartition("#")[2]


def test_generate_refuses_a_decoder_that_a_release_lacks(engine: Engine[object]) -> None:
    engine.model.light_decoder, light = None, engine.model.light_decoder
    try:
        with pytest.raises(ValueError, match="decoder: 'light' is not allowed; permitted: full"):
            generate(engine.model, [{"class_label": 1}], [1], latent_shape=engine.release.latent_shape, decoder="light")
    finally:
        engine.model.light_decoder = light
