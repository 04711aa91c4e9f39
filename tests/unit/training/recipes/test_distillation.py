"""The distillation of a small model, for a few steps under Lightning's trainer."""

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from training.data.batches import Batches
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion
from training.model.sampling import Sampler, generate
from training.model.unet import UNet
from training.recipes.distillation import DistillationRecipe, make_student
from training.recipes.distillation_loss import DistillationLossConfig
from training.recipes.optimiser import OptimiserConfig
from training.recipes.randomness import StepDraws
from training.recipes.self_consistency import Steps
from training.runs.progress import ProgressReport

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
OPTIMISER = OptimiserConfig(learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.0, warmup_steps=2, clip_norm=1.0)
SHAPE = (2, 8, 8)


@pytest.fixture
def teacher(latent_diffusion: LatentDiffusion) -> LatentDiffusion:
    """A random model to which timesteps matter: a group norm of one channel undoes their shift, but not their scale."""
    torch.manual_seed(0)
    latent_diffusion.unet = UNet(replace(latent_diffusion.unet.config, scale_shift=True))
    for parameter in latent_diffusion.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return latent_diffusion.eval()


def read(rows: NDArray[Any], generators: Sequence[Generator]) -> dict[str, Any]:
    moments = torch.stack([torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0)),
                           torch.full((12, *SHAPE), 0.1)], dim=1)  # fmt: skip
    return {"moments": moments[torch.from_numpy(rows)], "requests": [{"class_label": int(r) % 3} for r in rows]}


def batches() -> Batches:
    return Batches(read, count=12, batch_size=12, seed=0, steps=1000)


def distillation(teacher: LatentDiffusion, steps: int, accumulate: int = 1, **loss: Any) -> DistillationRecipe:
    return DistillationRecipe(
        teacher, DistillationLossConfig(**{"finest": 8, **loss}), OPTIMISER, steps=steps, seed=0, batch_size=12,
        accumulate=accumulate, ema_decay=0.9,
    )  # fmt: skip


def fit(recipe: DistillationRecipe, steps: int, folder: Path) -> list[float]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    report = ProgressReport(steps, folder)
    Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[report], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(recipe, DataLoader(batches(), batch_size=None, sampler=range(steps)))  # fmt: skip
    return [row["loss"] for row in report.rows]


def test_the_student_learns_the_guided_answer(teacher: LatentDiffusion) -> None:
    """Its loss falls on rows that are asked again and again; those of coarser grids are among them."""
    teacher.diffusion = Diffusion(DiffusionConfig(parameterisation="v"))  # eps of no training is no image
    recipe = distillation(teacher, 24)
    drawn = {
        "posterior": torch.zeros(12, *SHAPE), "eps": torch.randn(12, *SHAPE), "share": torch.arange(12) / 12,
        "scale": torch.full((12,), 4.0), "grid": torch.arange(12) % 2,
    }  # fmt: skip
    (optimiser,) = recipe.build_optimisers()
    losses = []
    for _ in range(30):
        loss = recipe.loss(read(np.arange(12), []), drawn)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_training_moves_the_student_and_its_average_and_leaves_the_teacher(
    teacher: LatentDiffusion, tmp_path: Path
) -> None:
    before = copy.deepcopy(teacher.state_dict())
    recipe = distillation(teacher, 2)
    fit(recipe, 2, tmp_path)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    student, average = (dict(part.state_dict()) for part in (recipe.trained, recipe.average))
    moved = [name for name in student if not torch.equal(student[name], average[name])]
    assert len(moved) > 0.9 * len(student)
    assert any(name.startswith("unet.numbers") for name in moved)
    assert not any("teacher" in name for name in recipe.saved_weights())


def test_the_teacher_s_target_is_two_guided_steps_of_ddim(teacher: LatentDiffusion) -> None:
    """A row of the finest grid is led where DDIM leads it in two steps with guidance."""
    recipe = distillation(teacher, 1)
    requests, scale = [{"class_label": 2}], 2.5
    start = torch.randn(1, *SHAPE)
    found: list[torch.Tensor] = []
    generate(
        teacher, requests, [0], latent_shape=SHAPE, sampler=Sampler("ddim", 16), start=start,
        guidance=Guidance(scale), on_latents=found.append,
    )  # fmt: skip
    x = start
    with torch.no_grad():
        asked = recipe.ask(requests, (8, 8), torch.tensor([scale]))
        for level in range(0, 16, 2):
            steps = Steps(torch.tensor([level]), torch.tensor([2]))
            x = recipe.grids.move(x, recipe.target(x, steps, asked, torch.tensor([0])), steps)
    torch.testing.assert_close(x, found[0], rtol=1e-3, atol=1e-3)


def test_the_targets_of_coarser_grids_are_the_average_s_half_steps(teacher: LatentDiffusion) -> None:
    recipe = distillation(teacher, 1)
    for parameter in recipe.average.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    x, requests = torch.randn(2, *SHAPE), [{"class_label": 0}, {"class_label": 1}]
    steps = Steps(torch.tensor([0, 8]), torch.tensor([16, 4]))
    with torch.no_grad():
        asked = recipe.ask(requests, (8, 8), torch.tensor([1.0, 3.0]))
        found = recipe.target(x, steps, asked, torch.tensor([3, 1]))  # 16 = 2 << 3
        unet, half = recipe.average["unet"], steps.length // 2
        first, second = Steps(steps.start, half), Steps(steps.start + half, half)
        middle = recipe.grids.move(x, recipe.answer(unet, x, first, asked), first)
        end = recipe.grids.move(middle, recipe.answer(unet, middle, second, asked), second)
    torch.testing.assert_close(recipe.grids.move(x, found, steps), end, rtol=1e-4, atol=1e-4)


def test_progressive_targets_are_fixed_when_a_stage_begins(teacher: LatentDiffusion, tmp_path: Path) -> None:
    """Of 8 steps for 4 grids, the last two learn whole runs from the student as it was after the sixth."""
    recipe = distillation(teacher, 8, method="progressive")
    began: list[dict[str, torch.Tensor]] = []
    grids: list[list[int]] = []
    begin_step = recipe.begin_step

    def begin() -> torch.Tensor:
        found = begin_step()
        began.append(copy.deepcopy(recipe.frozen.state_dict()))
        grids.append(found.bincount(minlength=4).tolist())
        return found

    recipe.begin_step = begin  # type: ignore[method-assign]
    fit(recipe, 8, tmp_path)
    assert grids == [[12, 0, 0, 0]] * 2 + [[6, 6, 0, 0]] * 2 + [[3, 3, 6, 0]] * 2 + [[2, 2, 2, 6]] * 2
    name = next(name for name in began[0] if name.endswith("weight"))
    differs = [not torch.equal(before[name], after[name]) for before, after in pairwise(began)]
    assert differs == [False, True, False, True, False, True, False]
    assert torch.equal(recipe.frozen.state_dict()[name], began[-1][name])
    assert not torch.equal(recipe.average.state_dict()[name], began[-1][name])
    assert any(saved.startswith("frozen.") for saved in recipe.saved_weights())  # an interrupted stage goes on
    assert recipe.target_unet is recipe.frozen["unet"]


@pytest.mark.parametrize(
    "config",
    [
        DiffusionConfig(parameterisation="v", zero_terminal_snr=True),
        DiffusionConfig(schedule="flow", parameterisation="flow"),
        DiffusionConfig(parameterisation="x0"),
    ],
    ids=["zero-terminal-snr", "flow", "x0"],
)
def test_every_kind_of_teacher_gives_finite_targets(config: DiffusionConfig, teacher: LatentDiffusion) -> None:
    teacher.diffusion = Diffusion(config)
    recipe = distillation(teacher, 1)
    assert recipe.diffusion.config.parameterisation == ("flow" if config.schedule == "flow" else "v")
    rows = read(np.arange(12), [])
    drawn = {
        "posterior": torch.randn(12, *SHAPE), "eps": torch.randn(12, *SHAPE), "share": torch.zeros(12),
        "scale": torch.full((12,), 3.0), "grid": torch.arange(12) % 4,
    }  # fmt: skip
    loss = recipe.loss(rows, drawn)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in recipe.student_unet.parameters() if p.grad is not None)


def test_a_batch_in_parts_has_the_loss_of_the_whole(teacher: LatentDiffusion, tmp_path: Path) -> None:
    whole = fit(distillation(copy.deepcopy(teacher), 2), 2, tmp_path / "whole")
    parts = fit(distillation(copy.deepcopy(teacher), 2, accumulate=3), 2, tmp_path / "parts")
    assert parts == pytest.approx(whole, rel=1e-4)


def test_scales_are_drawn_from_the_range(teacher: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = distillation(teacher, 1, guidance_low=0.5, guidance_high=3.0)
    scales: list[torch.Tensor] = []
    grids: list[torch.Tensor] = []

    def loss(rows: Any, drawn: dict[str, torch.Tensor]) -> torch.Tensor:
        scales.append(drawn["scale"])
        grids.append(drawn["grid"])
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(recipe, "loss", loss)
    for name in ("backward_part", "optimise"):
        monkeypatch.setattr(recipe, name, lambda *given: None)
    monkeypatch.setattr(recipe, "optimiser_list", lambda: [None])
    for step in range(40):
        recipe.step = step
        recipe.take_step(read(np.arange(12), []), StepDraws(0, step, 12))
    drawn = torch.cat(scales)
    assert 0.5 <= float(drawn.min()) < 0.6
    assert 2.9 < float(drawn.max()) <= 3.0
    assert torch.cat(grids).bincount().tolist() == [120] * 4


@pytest.mark.parametrize(("method", "stages"), [("shortcut", 1), ("progressive", 4)])
def test_the_learning_rate_falls_once_in_each_stage(method: str, stages: int, teacher: LatentDiffusion) -> None:
    """A stage is a training of its own in Salimans & Ho 2022; the warm-up is at the beginning alone."""
    recipe, length = distillation(teacher, 40, method=method), 40 // stages
    shares = []
    for step in range(40):
        recipe.step = step
        shares.append(recipe.rate_share())
    for first in range(0, 40, length):
        falls = [0.5 * (1 + math.cos(math.pi * step / length)) for step in range(length)]
        if first == 0:
            falls[:2] = [falls[0] / 3, falls[1] * 2 / 3]
        assert shares[first : first + length] == pytest.approx(falls)


def test_a_student_begins_with_its_teacher_s_answers(teacher: LatentDiffusion) -> None:
    teacher.diffusion = Diffusion(DiffusionConfig(parameterisation="v"))
    student = make_student(teacher)
    conditions = teacher.conditions([{"class_label": 1}] * 2, (8, 8))
    x, t = torch.randn(2, *SHAPE), torch.tensor([3, 999])
    numbers = torch.tensor([[0.5, 1.0], [1.0, 4.0]])
    assert torch.equal(student.denoise(x, t, conditions, numbers), teacher.denoise(x, t, conditions))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"finest": 4}, "finest: 4 is not allowed; permitted: 8, 16, 32"),
        ({"finest": 24}, "finest: 24 is not allowed"),
        ({"guidance_low": 1.5}, "guidance_low, guidance_high: 1.5, 4 are not allowed; permitted: low <= 1 <= high"),
        ({"guidance_high": 0.5}, "guidance_low, guidance_high: 1, 0.5 are not allowed"),
    ],
)
def test_settings_that_would_not_train_what_is_served_are_refused(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationLossConfig(**loss).check()
