"""A network that is told the length of its steps and the guidance scale, from its configuration to an image."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.releases import make_distilled_release
from training.model import release, spacing
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, load_diffusion
from training.model.release import Distilled, ReleaseError
from training.model.sampling import Sampler, generate, trajectory
from training.model.solvers import build, count_evaluations
from training.model.unet import UNet, UNetConfig

SHAPE = (2, 8, 8)
SMALL: dict[str, Any] = {"in_channels": 2, "out_channels": 2, "channels": 32, "multipliers": (1,), "res_blocks": 1,
         "attention_factors": (), "scale_shift": True}  # fmt: skip


def seeded_unet(**more: Any) -> UNet:
    torch.manual_seed(0)
    unet = UNet(UNetConfig(**SMALL, **more))
    torch.nn.init.normal_(next(unet.conv_out.parameters()), std=0.1)
    return unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_distilled_release(tmp_path_factory.mktemp("release") / "distilled")


@pytest.fixture(scope="module")
def distilled(folder: Path) -> LatentDiffusion:
    return load_diffusion(folder)[0]


def test_a_network_begins_as_it_was_without_the_numbers() -> None:
    plain, told = seeded_unet(), seeded_unet(numbers=("step", "guidance"))
    missing = told.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing.missing_keys} == {"numbers"}
    assert not missing.unexpected_keys
    x, t = torch.randn(3, 2, 8, 8), torch.tensor([5, 400, 999])
    numbers = torch.tensor([[1.0, 3.0], [0.5, 1.0], [0.25, 1.5]])
    assert torch.equal(told(x, t, numbers=numbers), plain(x, t))


@pytest.mark.parametrize("column", [0, 1])
def test_each_number_changes_its_own_row(column: int) -> None:
    unet = seeded_unet(numbers=("step", "guidance"))
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(1, 2, 8, 8).expand(2, -1, -1, -1), torch.tensor([400, 400])
    numbers = torch.tensor([[0.5, 1.5], [0.5, 1.5]])
    before = unet(x, t, numbers=numbers)
    numbers[1, column] += 0.25
    after = unet(x, t, numbers=numbers)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_numbers_that_do_not_fit_are_refused() -> None:
    x, t = torch.zeros(1, 2, 8, 8), torch.zeros(1)
    with pytest.raises(ValueError, match="numbers: this U-Net needs step, guidance"):
        seeded_unet(numbers=("step", "guidance"))(x, t)
    with pytest.raises(ValueError, match="numbers: this U-Net needs none"):
        seeded_unet()(x, t, numbers=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="numbers: 'end' is not known; permitted: step, guidance"):
        UNetConfig(numbers=("end",))
    with pytest.raises(ValueError, match="numbers: step, step; permitted: each name once"):
        UNetConfig(numbers=("step", "step"))


def test_a_release_without_numbers_is_written_as_before(latent_diffusion: LatentDiffusion) -> None:
    assert "numbers" not in latent_diffusion.architecture()["unet"]
    assert not any("numbers" in name for name in latent_diffusion.state_dict())


def test_a_distilled_release_says_how_it_may_be_sampled(folder: Path, distilled: LatentDiffusion) -> None:
    description = release.read(folder)
    assert description.distilled == Distilled((1, 2, 4, 8), (1.0, 4.0), 4, 1.5)
    assert description.architecture["unet"]["numbers"] == ["step", "guidance"]
    assert distilled.is_told_guidance
    assert not distilled.has_null
    document = json.loads((folder / release.MANIFEST).read_text())
    document["conditions"]["distilled"]["defaults"]["steps"] = 2
    with pytest.raises(ReleaseError, match="the digest does not match"):
        release.parse(document)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda field: field.pop("steps"),
        lambda field: field.update(steps=["many"]),
        lambda field: field.update(guidance_scale=[1.0]),
        lambda field: field.update(defaults={"steps": 3, "guidance_scale": 1.5}),
        lambda field: field.update(defaults={"steps": 4, "guidance_scale": 9.0}),
    ],
)
def test_a_malformed_description_is_refused(spoil: Callable[[dict[str, Any]], object]) -> None:
    field = Distilled((1, 2, 4, 8), (1.0, 4.0), 4, 1.5).to_json()
    spoil(field)
    with pytest.raises(ReleaseError, match=r"conditions\.distilled"):
        Distilled.of(field)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_run_is_euler_s_with_steps_of_equal_shares(steps: int, distilled: LatentDiffusion) -> None:
    found = trajectory(distilled, Sampler("shortcut", steps))
    euler = build("euler", spacing.levels(distilled.diffusion, steps, "trailing"), distilled.diffusion)
    assert (found.A == euler.A).all()
    assert found.step == pytest.approx([1 / steps] * steps)
    assert len(found) == count_evaluations("shortcut", steps) == steps


def test_a_part_of_a_run_keeps_the_length_of_its_steps(distilled: LatentDiffusion) -> None:
    found = trajectory(distilled, Sampler("shortcut", 8, strength=0.4))
    assert found.step == pytest.approx([1 / 8] * 3)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Sampler("ddim", 4), "solver: 'ddim' is not allowed for a model that was distilled.*permitted: shortcut"),
        (Sampler("shortcut", 4, "karras"), "spacing: 'karras' is not allowed for a model that was distilled"),
        (Sampler("shortest", 4), "solver: 'shortest' is not known"),
    ],
)
def test_a_distilled_model_has_its_own_solver(sampler: Sampler, message: str, distilled: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match=message):
        trajectory(distilled, sampler)


def test_the_solver_is_refused_for_other_models(latent_diffusion: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="solver: 'shortcut' is not allowed; permitted: ddim, "):
        trajectory(latent_diffusion, Sampler("shortcut", 4))


@pytest.mark.parametrize("steps", [1, 4])
@torch.no_grad()
def test_samples_are_what_the_network_answers_when_told_the_step_and_the_scale(
    steps: int, distilled: LatentDiffusion
) -> None:
    requests, scale = [{"class_label": 3}, {"class_label": 7}], 2.5
    found: list[torch.Tensor] = []
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    generate(
        distilled, requests, [0, 1], latent_shape=SHAPE, sampler=Sampler("shortcut", steps), start=x,
        guidance=Guidance(scale), on_latents=found.append,
    )  # fmt: skip
    conditions = distilled.conditions(requests, (8, 8))
    numbers = torch.tensor([[1 / steps, scale]] * 2)
    for a, b in pairwise(spacing.levels(distilled.diffusion, steps, "trailing")):
        estimate = distilled.denoise(x, torch.full((2,), a.t), conditions, numbers)
        x = b.alpha * estimate + b.sigma / a.sigma * (x - a.alpha * estimate)
    torch.testing.assert_close(found[0], x, rtol=1e-4, atol=1e-4)
