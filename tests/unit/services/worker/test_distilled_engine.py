"""A distilled release in the engine: one row an image, and no image depends on its company."""

import random

import numpy as np
import pytest

from services.job_requests.image_spec import ImageSpec, image_cost
from services.worker.engine import Engine
from services.worker.images import Developed
from tests.support.releases import make_distilled_release
from training.model.guidance import Guidance
from training.model.pixels import to_bytes
from training.model.sampling import Sampler, generate

Images = list[tuple[ImageSpec, int]]  # and their classes


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine[object]:
    folder = make_distilled_release(tmp_path_factory.mktemp("release") / "distilled")
    return Engine[object](folder, rows=6, device="cpu")


MIX: Images = [
    (ImageSpec(seed, 0, seed, steps, "shortcut", scale), seed % 10)
    for seed, (steps, scale) in enumerate(
        [(4, 1.0), (1, 1.5), (8, 4.0), (2, 2.0), (4, 2.5), (1, 1.0), (2, 1.5), (8, 1.5), (4, 1.5)]
    )
]


def develop(engine: Engine[object], images: Images) -> dict[int, Developed[object]]:
    for spec, label in images:
        engine.add("owner", engine.request(spec, engine.read_conditions({"class_label": label})))
    done: dict[int, Developed[object]] = {}
    while engine.busy:
        for one in engine.step():
            assert isinstance(one, Developed), one
            done[one.spec.seed] = one
    return done


def test_an_image_is_the_same_alone_and_in_any_company(engine: Engine[object]) -> None:
    together = {seed: one.pixels.tobytes() for seed, one in develop(engine, MIX).items()}
    shuffled = MIX.copy()
    random.Random(0).shuffle(shuffled)
    assert {seed: one.pixels.tobytes() for seed, one in develop(engine, shuffled).items()} == together
    for each in MIX[:4]:
        ((seed, one),) = develop(engine, [each]).items()
        assert one.pixels.tobytes() == together[seed]
    assert len(set(together.values())) == len(MIX)


def test_an_evaluation_of_a_guided_image_takes_one_row(engine: Engine[object]) -> None:
    for seed, one in develop(engine, MIX).items():
        spec = MIX[seed][0]
        assert one.evaluations == image_cost(spec) == spec.steps


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_agrees_with_generate(engine: Engine[object], scale: float) -> None:
    spec = ImageSpec(31, 0, 31, 4, "shortcut", scale)
    pixels = develop(engine, [(spec, 3)])[31].pixels
    expected = generate(
        engine.model, [{"class_label": 3}], [31], latent_shape=engine.release.latent_shape,
        sampler=Sampler("shortcut", 4), guidance=Guidance(scale),
    )  # fmt: skip
    difference = np.abs(pixels.astype(int) - to_bytes(expected)[0].astype(int))
    assert difference.max() <= 1


def test_the_scale_decides_the_image(engine: Engine[object]) -> None:
    one, other = (
        develop(engine, [(ImageSpec(5, 0, 5, 2, "shortcut", scale), 3)])[5].pixels.tobytes() for scale in (1.0, 4.0)
    )
    assert one != other


def test_another_solver_is_refused(engine: Engine[object]) -> None:
    with pytest.raises(ValueError, match="solver: 'ddim' is not allowed"):
        engine.request(ImageSpec(0, 0, 0, 4, "ddim", 1.5), engine.read_conditions({"class_label": 3}))
