"""Step-level batching: companions never change an image."""

import random
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from services.job_requests.image_spec import ImageSpec, image_cost
from services.worker import pack
from services.worker.engine import Engine
from services.worker.images import Developed
from tests.support.images import as_base64, image_file
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, save_diffusion
from training.model.pixels import to_bytes
from training.model.sampling import Sampler, generate


@dataclass(frozen=True)
class Image:
    """An image and its conditions."""

    spec: ImageSpec
    conditions: dict[str, Any]


def image(seed: int, *, steps: int = 4, guidance: float = 2.0, label: int = 3, solver: str = "ddim") -> Image:
    return Image(ImageSpec(seed, 0, seed, steps, solver, guidance), {"class_label": label})


@pytest.fixture(scope="module")
def engine(tiny_release: Path) -> Engine[object]:
    return Engine[object](tiny_release, rows=8, device="cpu")


def add(engine: Engine[object], owner: object, each: Image) -> None:
    engine.add(owner, engine.request(each.spec, engine.read_conditions(each.conditions)))


def step(engine: Engine[object]) -> dict[int, bytes]:
    """Take one step. Returns the pixels of the images that are done, by seed."""
    done = engine.step()
    assert all(isinstance(one, Developed) for one in done), done
    return {one.spec.seed: one.pixels.tobytes() for one in done if isinstance(one, Developed)}


def develop(engine: Engine[object], images: list[Image]) -> dict[int, bytes]:
    for each in images:
        add(engine, "owner", each)
    done: dict[int, bytes] = {}
    while engine.busy:
        done |= step(engine)
    assert len(done) == len(images)
    return done


ODD = Image(
    ImageSpec(20, 0, 20, 6, "unipc", 2.0, "karras", guidance_interval=(0.2, 0.8), guidance_rescale=0.5),
    {"class_label": 3},
)
MIX = [
    image(1),
    image(2, steps=7, guidance=1.0, label=9),
    image(3, solver="dpm_solver_2m", steps=5),
    image(4, solver="ddpm", steps=6, guidance=3.5, label=0),
    image(5, steps=1),
    ODD,
    *(image(seed, steps=3, label=seed % 10) for seed in range(6, 20)),
]


def test_an_image_is_the_same_alone_and_in_any_company(engine: Engine[object]) -> None:
    together = develop(engine, MIX)
    shuffled = MIX.copy()
    random.Random(0).shuffle(shuffled)
    assert develop(engine, shuffled) == together
    for each in MIX[:6]:
        assert develop(engine, [each])[each.spec.seed] == together[each.spec.seed]
    assert len(set(together.values())) == len(MIX)


def test_each_image_knows_what_it_took(engine: Engine[object]) -> None:
    for each in (*MIX[:4], image(5, steps=120)):
        add(engine, "owner", each)
    began = time.perf_counter()
    done = [one for _ in range(150) for one in engine.step()]
    took = time.perf_counter() - began
    assert {one.spec.seed: one.evaluations for one in done if isinstance(one, Developed)} == {
        each.spec.seed: image_cost(each.spec) for each in (*MIX[:4], image(5, steps=120))
    }
    seconds = [one.seconds for one in done if isinstance(one, Developed)]
    assert min(seconds) > 0
    assert 0.5 * took < sum(seconds) <= took


def test_images_that_wait_for_rows_are_not_charged_for_it(tiny_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image has one row, and two while it is guided. So more images join than have rows later, and some wait."""
    clock = SimpleNamespace(perf_counter=count().__next__)  # a step takes a second
    monkeypatch.setattr(pack, "time", clock)
    engine = Engine[object](tiny_release, rows=8, device="cpu")
    for seed in range(32):
        spec = ImageSpec(seed, 0, seed, 15, "ddim", 2.0, guidance_interval=(0.2, 0.7))
        add(engine, "owner", Image(spec, {"class_label": 3}))
    steps, seconds = 0, 0.0
    while engine.busy:
        steps += bool(engine.pack.batch.runs or engine.pack.waiting)
        seconds += sum(one.seconds for one in engine.step() if isinstance(one, Developed))
    assert 0.9 * steps < seconds < 1.1 * steps


def test_images_that_join_midway_change_nothing(engine: Engine[object]) -> None:
    together = develop(engine, MIX[:3])
    add(engine, "early", MIX[1])
    engine.step()
    engine.step()
    done: dict[int, bytes] = {}
    for each in (MIX[0], MIX[2]):
        add(engine, "late", each)
    while engine.busy:
        done |= step(engine)
    assert done == together


@pytest.mark.parametrize(
    "each", MIX[:6], ids=lambda each: f"{each.spec.solver}-{each.spec.steps}-{each.spec.guidance_scale}"
)
def test_agrees_with_generate(engine: Engine[object], each: Image) -> None:
    spec = each.spec
    pixels = np.frombuffer(develop(engine, [each])[each.spec.seed], np.uint8).reshape(32, 32, 1)
    expected = generate(
        engine.model,
        [each.conditions],
        [spec.seed],
        latent_shape=engine.release.latent_shape,
        sampler=Sampler(spec.solver, spec.steps, spec.spacing),
        guidance=Guidance(spec.guidance_scale, spec.guidance_interval, spec.guidance_rescale),
    )
    assert np.abs(pixels.astype(int) - to_bytes(expected)[0].astype(int)).max() <= 1


def test_an_unguided_image_takes_one_row(engine: Engine[object]) -> None:
    add(engine, "owner", image(1, guidance=1.0))
    assert engine.free_rows == 7
    add(engine, "owner", image(2))
    assert engine.free_rows == 5
    engine.remove("owner")
    assert engine.free_rows == 8


def test_removing_an_owner_leaves_the_others(engine: Engine[object]) -> None:
    mine, theirs = object(), object()
    for seed in range(3):
        add(engine, mine, image(seed))
        add(engine, theirs, image(seed + 10))
    engine.step()
    engine.remove(mine)
    done: list[int] = []
    while engine.busy:
        done += step(engine)
    assert sorted(done) == [10, 11, 12]


def test_more_images_than_rows_are_taken_in_their_order(engine: Engine[object]) -> None:
    for seed in range(10):
        add(engine, "owner", image(seed, steps=2))
    assert engine.free_rows == 0
    order: list[int] = []
    while engine.busy:
        order += step(engine)
    assert order == list(range(10))


def test_profiles_differ_by_row_count_and_torch(tiny_release: Path) -> None:
    profile = Engine(tiny_release, rows=4, device="cpu").profile
    assert profile != Engine(tiny_release, rows=8, device="cpu").profile
    assert torch.__version__ in profile


def test_a_condition_that_cannot_be_used_is_refused_when_it_is_read(engine: Engine[object]) -> None:
    with pytest.raises(ValueError, match="class_label: 10 is not allowed; permitted: an integer from 0 to 9"):
        add(engine, "owner", image(1, label=10))
    assert not engine.busy


def test_inpainting_keeps_the_known_pixels_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first_stage = {"image_channels": 1, "latent_channels": 2, "channels": 32, "multipliers": (1, 1), "res_blocks": 1}
    unet = {"in_channels": 5, "out_channels": 2, "channels": 32, "multipliers": (1,), "res_blocks": 1}
    hole = {"type": "masked_image", "factor": 2, "channels": 1}
    model = LatentDiffusion.build(
        {
            "autoencoder": {**first_stage, "middle_attention": False},
            "unet": {**unet, "attention_factors": ()},
            "conditioners": {"inpaint": hole},
            "diffusion": {},
        }
    ).eval()
    save_diffusion(tmp_path, model, name="inpainting", image_size=16)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    masks = np.where(rng.random((3, 16, 16)) < 0.4, np.uint8(255), np.uint8(0))
    specs = [
        Image(
            ImageSpec(seed, 0, seed, 3, "ddim", 2.0),
            {"inpaint": {"image": as_base64(image_file(picture)), "mask": as_base64(image_file(mask))}},
        )
        for seed, (picture, mask) in enumerate(zip(pictures, masks, strict=True))
    ]
    found = develop(Engine(tmp_path, rows=4, device="cpu"), specs)
    requests = [{"inpaint": {"image": p, "mask": m}} for p, m in zip(pictures, masks, strict=True)]
    sampler, guidance = Sampler("ddim", 3), Guidance(2.0)
    alone = generate(model, requests, range(3), latent_shape=(2, 8, 8), sampler=sampler, guidance=guidance)
    for seed in range(3):
        known = masks[seed] == 0
        for made in (np.frombuffer(found[seed], np.uint8).reshape(16, 16), to_bytes(alone)[seed, :, :, 0]):
            assert np.array_equal(made[known], pictures[seed][known])
            assert (made[~known] != pictures[seed][~known]).mean() > 0.9
