"""Step-level batching: companions never change an image."""

import base64
import io
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from services.job_requests.image_spec import ImageSpec
from services.worker.engine import Engine
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, save_diffusion
from training.model.pixels import to_bytes
from training.model.sampling import Sampler, generate


def spec(seed: int, *, steps: int = 4, guidance: float = 2.0, label: int = 3, solver: str = "ddim") -> ImageSpec:
    return ImageSpec(seed, 0, seed, steps, solver, guidance, {"class_label": label})


@pytest.fixture(scope="module")
def engine(tiny_release: Path) -> Engine[object]:
    return Engine[object](tiny_release, rows=8, device="cpu")


def develop(engine: Engine[object], specs: list[ImageSpec]) -> dict[int, bytes]:
    for each in specs:
        engine.add("owner", each)
    done: dict[int, bytes] = {}
    while engine.busy:
        for image in engine.step():
            done[image.spec.seed] = image.pixels.tobytes()
    assert len(done) == len(specs)
    return done


MIX = [
    spec(1),
    spec(2, steps=7, guidance=1.0, label=9),
    spec(3, solver="dpm_solver_2m", steps=5),
    spec(4, solver="ddpm", steps=6, guidance=3.5, label=0),
    spec(5, steps=1),
    replace(spec(20, solver="unipc", steps=6), spacing="karras", guidance_interval=(0.2, 0.8), guidance_rescale=0.5),
    *(spec(seed, steps=3, label=seed % 10) for seed in range(6, 20)),
]


def test_an_image_is_the_same_alone_and_in_any_company(engine: Engine[object]) -> None:
    together = develop(engine, MIX)
    shuffled = MIX.copy()
    random.Random(0).shuffle(shuffled)
    assert develop(engine, shuffled) == together
    for each in MIX[:6]:
        assert develop(engine, [each])[each.seed] == together[each.seed]
    assert len(set(together.values())) == len(MIX)


def test_images_that_join_midway_change_nothing(engine: Engine[object]) -> None:
    together = develop(engine, MIX[:3])
    engine.add("early", MIX[1])
    engine.step()
    engine.step()
    done: dict[int, bytes] = {}
    for each in (MIX[0], MIX[2]):
        engine.add("late", each)
    while engine.busy:
        done |= {image.spec.seed: image.pixels.tobytes() for image in engine.step()}
    assert done == together


@pytest.mark.parametrize("each", MIX[:6], ids=lambda each: f"{each.solver}-{each.steps}-{each.guidance_scale}")
def test_agrees_with_generate(engine: Engine[object], each: ImageSpec) -> None:
    pixels = np.frombuffer(develop(engine, [each])[each.seed], np.uint8).reshape(32, 32, 1)
    expected = generate(
        engine.model,
        [each.conditions],
        [each.seed],
        latent_shape=engine.release.latent_shape,
        sampler=Sampler(each.solver, each.steps, each.spacing),
        guidance=Guidance(each.guidance_scale, each.guidance_interval, each.guidance_rescale),
    )
    assert np.abs(pixels.astype(int) - to_bytes(expected)[0].astype(int)).max() <= 1


def test_an_unguided_image_takes_one_row(engine: Engine[object]) -> None:
    engine.add("owner", spec(1, guidance=1.0))
    assert engine.free_rows == 7
    engine.add("owner", spec(2))
    assert engine.free_rows == 5
    engine.remove("owner")
    assert engine.free_rows == 8


def test_removing_an_owner_leaves_the_others(engine: Engine[object]) -> None:
    mine, theirs = object(), object()
    for seed in range(3):
        engine.add(mine, spec(seed))
        engine.add(theirs, spec(seed + 10))
    engine.step()
    engine.remove(mine)
    done = []
    while engine.busy:
        done += engine.step()
    assert sorted(image.spec.seed for image in done) == [10, 11, 12]


def test_more_images_than_rows_are_taken_in_their_order(engine: Engine[object]) -> None:
    for seed in range(10):
        engine.add("owner", spec(seed, steps=2))
    assert engine.free_rows == 0
    order = []
    while engine.busy:
        order += [image.spec.seed for image in engine.step()]
    assert order == list(range(10))


def test_profiles_differ_by_row_count_and_torch(tiny_release: Path) -> None:
    profile = Engine(tiny_release, rows=4, device="cpu").profile
    assert profile != Engine(tiny_release, rows=8, device="cpu").profile
    assert torch.__version__ in profile


def test_a_condition_that_cannot_be_used_is_refused_when_it_is_added(engine: Engine[object]) -> None:
    with pytest.raises(ValueError, match="class_label: 10 is not allowed; permitted: an integer from 0 to 9"):
        engine.add("owner", spec(1, label=10))
    assert not engine.busy


def png(pixels: np.ndarray) -> str:
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "png")
    return base64.b64encode(body.getvalue()).decode()


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
        ImageSpec(seed, 0, seed, 3, "ddim", 2.0, {"inpaint": {"image": png(picture), "mask": png(mask)}})
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
