"""The recipes under Lightning's trainer, for a few steps on small images."""

import copy
import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.data.batches import Batches
from training.data.image_set import ImageSet
from training.data.rows import ImageRows
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.latent_diffusion import LatentDiffusion
from training.recipes.autoencoder import AutoencoderRecipe, perplexity
from training.recipes.diffusion import DiffusionRecipe
from training.recipes.latent_recipe import update_average
from training.recipes.latent_scale import measure_latent_scale, training_batches
from training.recipes.losses import AutoencoderLossConfig, adaptive_weight, r1_penalty
from training.recipes.optimiser import OptimiserConfig, build, factor, set_rate
from training.recipes.randomness import StepDraws, seed_dropout
from training.runs import progress
from training.runs.errors import Diverged
from training.runs.progress import ProgressReport, draw

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
OPTIMISER = OptimiserConfig(learning_rate=2e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup_steps=2, clip_norm=1.0)


def fit(
    recipe: LightningModule, batches: Batches, steps: int, folder: Path, watcher: Callback | None = None
) -> list[float]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    report = ProgressReport(steps, folder)
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[report, *([watcher] if watcher else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(recipe, DataLoader(batches, batch_size=None, sampler=range(steps)))
    return [row["loss"] for row in report.rows]


def snapshot(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def of_images(images: ImageSet, batch_size: int = 8) -> Batches:
    return Batches(ImageRows(images), count=36, batch_size=batch_size, seed=0, steps=1000)


def of_latents(seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(0)
    moments = torch.stack([torch.randn(12, 2, 8, 8, generator=generator), torch.full((12, 2, 8, 8), 0.1)], dim=1)

    def read(rows: NDArray[Any], generators: Sequence[Generator]) -> dict[str, Any]:
        return {"moments": moments[torch.from_numpy(rows)], "requests": [{"class_label": int(r) % 3} for r in rows]}

    return Batches(read, count=12, batch_size=6, seed=seed, steps=1000)


def autoencoder_recipe(
    autoencoder: Autoencoder, steps: int, *, batch_size: int = 8, accumulate: int = 1, seed: int = 0, **loss: Any
) -> AutoencoderRecipe:
    torch.manual_seed(0)
    return AutoencoderRecipe(
        autoencoder, AutoencoderLossConfig(**loss), OPTIMISER, steps=steps, seed=seed, batch_size=batch_size,
        accumulate=accumulate,
    )  # fmt: skip


def diffusion_recipe(model: LatentDiffusion, steps: int, seed: int = 0, **options: Any) -> DiffusionRecipe:
    return DiffusionRecipe(model, OPTIMISER, steps=steps, seed=seed, batch_size=6, **options)


# -- the first stage -----------------------------------------------------------------------------


def test_a_few_steps_lower_the_autoencoder_s_loss(bars: ImageSet, autoencoder: Autoencoder, tmp_path: Path) -> None:
    losses = fit(autoencoder_recipe(autoencoder, 12), of_images(bars), 12, tmp_path)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def codebook_autoencoder(size: int = 64) -> Autoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        image_channels=1, latent_channels=2, channels=32, multipliers=(1, 1), res_blocks=1, middle_attention=False,
        regularisation="vq", codebook_size=size,
    )  # fmt: skip
    return Autoencoder(config)


def test_a_few_steps_lower_the_loss_of_an_autoencoder_with_a_codebook(bars: ImageSet, tmp_path: Path) -> None:
    recipe = autoencoder_recipe(codebook_autoencoder(), 30)
    before = recipe.autoencoder.quantiser.codebook.weight.clone()
    losses = fit(recipe, of_images(bars), 30, tmp_path)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert not torch.equal(before, recipe.autoencoder.quantiser.codebook.weight)
    header, *rows = (tmp_path / "losses.csv").read_text().splitlines()
    columns = header.split(",")
    assert {"codebook", "perplexity"} <= set(columns)
    assert all(1 <= float(row.split(",")[columns.index("perplexity")]) <= 64 for row in rows)


def test_perplexity_counts_the_entries_that_occur_alike() -> None:
    assert float(perplexity(torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]), 16)) == pytest.approx(4.0)
    assert float(perplexity(torch.zeros(8, dtype=torch.int64), 16)) == pytest.approx(1.0)


def test_the_discriminator_moves_from_its_start_on(autoencoder: Autoencoder, tmp_path: Path) -> None:
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batches = Batches(lambda rows, _: {"image": images[torch.from_numpy(rows)]}, count=4, batch_size=2, seed=0, steps=9)
    recipe = autoencoder_recipe(
        autoencoder, 6, batch_size=2, adversarial_weight=0.5, adversarial_start=3, r1_weight=0.1
    )
    discriminator = recipe.get_submodule("discriminator")
    history = [snapshot(discriminator)]
    weights = [snapshot(recipe.autoencoder)]

    class Watcher(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
            history.append(snapshot(discriminator))
            weights.append(snapshot(recipe.autoencoder))

    fit(recipe, batches, 6, tmp_path, Watcher())
    moved = [not same(a, b) for a, b in pairwise(history)]
    assert moved == [False, False, False, True, True, True]
    assert not any(same(a, b) for a, b in pairwise(weights)), "the autoencoder moves every step"
    rows = [row.split(",") for row in (tmp_path / "losses.csv").read_text().splitlines()]
    judged = rows[0].index("discriminator")
    assert [float(row[judged]) > 0 for row in rows[1:]] == [False, False, False, True, True, True]


def test_without_adversarial_weight_there_is_no_discriminator(autoencoder: Autoencoder) -> None:
    assert autoencoder_recipe(autoencoder, 1).discriminator is None


def test_the_adaptive_weight_balances_the_gradients_at_the_last_layer() -> None:
    layer = torch.ones(3, requires_grad=True)
    weight = adaptive_weight((layer * 6).sum(), (layer * torch.tensor([2.0, 2.0, 2.0])).sum(), layer)
    assert float(weight) == pytest.approx(3.0, rel=1e-3)
    assert not weight.requires_grad


def test_r1_is_half_the_squared_gradient_at_real_images() -> None:
    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.arange(4.0).view(1, 1, 2, 2)).sum((1, 2, 3))[:, None, None, None]

    assert float(r1_penalty(Linear(), torch.randn(5, 1, 2, 2))) == pytest.approx(0.5 * (0 + 1 + 4 + 9))


@pytest.mark.parametrize("learned", [True, False])
def test_the_log_variance_is_trained_towards_the_log_of_the_error(
    learned: bool, bars: ImageSet, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    steps = 40 if learned else 4
    recipe = autoencoder_recipe(autoencoder, steps, batch_size=4, learned_logvar=learned, kl_weight=0.0)
    with torch.no_grad():
        recipe.reconstruction_loss.logvar.fill_(2.0)
    losses = fit(recipe, of_images(bars, 4), steps, tmp_path)
    now = float(recipe.reconstruction_loss.logvar.detach())
    assert now == 2.0 if not learned else math.log(losses[-1]) < now < 1.7


def test_the_latent_scale_brings_posterior_samples_to_unit_deviation(bars: ImageSet, autoencoder: Autoencoder) -> None:
    images = bars.pixels(bars.rows("train"))
    with torch.no_grad():
        autoencoder.get_parameter("quant_conv.weight").mul_(4)
        posterior = autoencoder.posterior(images)
        draws = torch.stack([posterior.sample() for _ in range(30)])
    scale = measure_latent_scale(autoencoder, iter(images.split(5)), seed=0)
    assert scale == pytest.approx(1 / float(draws.std()), rel=0.02)
    assert float(autoencoder.latent_scale) == scale
    assert measure_latent_scale(autoencoder, iter(images.split(5)), seed=0) == scale, "the scale before does not matter"


def test_the_latent_scale_is_measured_on_images_from_all_over_the_set(
    bars: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set is sorted by name, so its first images may all be of one class."""
    monkeypatch.setattr("training.recipes.latent_scale.MOST", 3)
    monkeypatch.setattr("training.recipes.latent_scale.BATCH", 2)
    measured = torch.cat(list(training_batches(bars)))
    torch.testing.assert_close(measured, bars.pixels([0, 12, 24]))


def test_equivariance_turns_some_batches(bars: ImageSet, autoencoder: Autoencoder, tmp_path: Path) -> None:
    plain = fit(autoencoder_recipe(copy.deepcopy(autoencoder), 4), of_images(bars), 4, tmp_path)
    turned = fit(autoencoder_recipe(autoencoder, 4, equivariance=1.0), of_images(bars), 4, tmp_path)
    assert plain != turned
    assert all(math.isfinite(loss) for loss in turned)


# -- the second stage ----------------------------------------------------------------------------


def test_a_few_steps_lower_the_diffusion_loss(latent_diffusion: LatentDiffusion, tmp_path: Path) -> None:
    recipe = diffusion_recipe(latent_diffusion, 40)
    losses = fit(recipe, of_latents(), 40, tmp_path)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_released_weights_are_the_average_and_the_autoencoder_is_untouched(
    latent_diffusion: LatentDiffusion, tmp_path: Path
) -> None:
    before, first_stage = snapshot(latent_diffusion.unet), snapshot(latent_diffusion.autoencoder)
    recipe = diffusion_recipe(latent_diffusion, 4, ema_decay=0.5)
    fit(recipe, of_latents(), 4, tmp_path)
    released = recipe.averaged_model()
    assert same(first_stage, snapshot(released.autoencoder))
    assert not same(before, snapshot(released.unet))
    assert not same(snapshot(recipe.trained["unet"]), snapshot(released.unet))


def test_the_average_warms_up() -> None:
    average, trained = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average.weight.fill_(0.0)
        trained.weight.fill_(1.0)
    update_average(average, trained, 1, 0.9999)
    assert float(average.weight.detach()) == pytest.approx(1 - 2 / 11)
    average.weight.data.fill_(0.0)
    update_average(average, trained, 10**6, 0.9)
    assert float(average.weight.detach()) == pytest.approx(0.1)


def test_what_the_host_decides_by_is_drawn_on_the_host_and_on_a_cpu_in_turn_with_the_rest() -> None:
    here, there = StepDraws(3, 5, 4), StepDraws(3, 5, 4)
    assert torch.equal(torch.cat([here.normal(2).flatten(), here.uniform_on_host()]),
                       torch.cat([there.normal(2).flatten(), there.uniform()]))  # fmt: skip
    assert here.uniform_on_host().device.type == "cpu"


def test_dropped_conditions_are_the_null_condition(latent_diffusion: LatentDiffusion) -> None:
    recipe = diffusion_recipe(latent_diffusion, 1)
    requests = [{"class_label": i % 3} for i in range(4)]
    dropped = torch.tensor([True, False, True, False])
    tokens = recipe.conditions(requests, dropped, (8, 8)).tokens
    null = latent_diffusion.conditioners([None], (8, 8), latent_diffusion.autoencoder.encode).tokens
    assert tokens is not None
    assert [bool((row == null).all()) for row in tokens] == dropped.tolist()


def test_training_on_images_encodes_them_on_the_way(
    bars: ImageSet, latent_diffusion: LatentDiffusion, tmp_path: Path
) -> None:
    """The same draws on moments that were encoded before and on images give the same loss."""
    recipe = diffusion_recipe(latent_diffusion, 1)
    pixels = bars.pixels(range(6))
    requests = [{"class_label": i % 3} for i in range(6)]
    with torch.no_grad():
        moments = torch.stack(latent_diffusion.autoencoder.moments(pixels), dim=1)
    shape = recipe.latent_shape({"image": pixels})
    assert shape == recipe.latent_shape({"moments": moments}) == (2, 8, 8)
    draws = StepDraws(0, 0, 6)
    drawn = {
        "posterior": draws.normal(*shape), "eps": draws.normal(*shape), "t": torch.arange(6) * 100,
        "dropped": torch.zeros(6, dtype=torch.bool),
    }  # fmt: skip
    first = recipe.loss({"image": pixels, "requests": requests}, drawn)
    second = recipe.loss({"moments": moments, "requests": requests}, drawn)
    torch.testing.assert_close(first, second)


# -- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["autoencoder", "diffusion"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    recipe: str, bars: ImageSet, latent_diffusion: LatentDiffusion, tmp_path: Path
) -> None:
    def trained(seed: int) -> list[Tensor]:
        model = copy.deepcopy(latent_diffusion)
        torch.rand(seed)  # the global generator's state must not matter
        if recipe == "autoencoder":
            fit(autoencoder_recipe(model.autoencoder, 3, seed=seed), of_images(bars), 3, tmp_path)
        else:
            fit(diffusion_recipe(model, 3, seed), of_latents(), 3, tmp_path)
        return snapshot(model)

    one = trained(1)
    torch.manual_seed(99)
    assert same(one, trained(1))
    assert not same(one, trained(2))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_taking_a_batch_in_parts_changes_nothing_but_rounding(
    accumulate: int, bars: ImageSet, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    whole, parts = (
        fit(autoencoder_recipe(copy.deepcopy(autoencoder), 6, accumulate=parts), of_images(bars), 6, tmp_path)
        for parts in (1, accumulate)
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def test_draws_are_a_function_of_seed_and_step() -> None:
    def draw(seed: int, step: int) -> tuple[float, ...]:
        draws = StepDraws(seed, step, 2)
        return (*draws.normal().tolist(), *draws.uniform().tolist())

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(*key) for key in [(1, 2), (2, 1), (1, 3), (3, 0), (0, 3)]}) == 5


def test_dropout_is_a_function_of_seed_step_rank_and_part() -> None:
    def draw(*key: int) -> float:
        seed_dropout(*key)
        return float(torch.rand(()))

    assert draw(1, 2, 0, 0) == draw(1, 2, 0, 0)
    assert len({draw(*key) for key in [(1, 2, 0, 0), (1, 2, 0, 1), (1, 2, 1, 0), (1, 3, 0, 0), (2, 2, 0, 0)]}) == 5


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = OptimiserConfig(learning_rate=1.0, betas=(0.9, 0.99), weight_decay=0.0, warmup_steps=4, clip_norm=1.0)
    rates = [factor(config, step, 100) for step in range(101)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6], rel=1e-2)
    assert max(rates) == pytest.approx(1.0, rel=1e-2)
    assert rates[50] == pytest.approx(0.5, abs=1e-6)
    assert rates[100] == pytest.approx(0.0, abs=1e-9)


def test_a_constant_rate_does_not_depend_on_the_number_of_steps() -> None:
    config = OptimiserConfig(1.0, (0.9, 0.99), 0.0, warmup_steps=4, clip_norm=1.0, schedule="constant")
    assert [factor(config, step, 10) for step in range(10)] == [factor(config, step, 1000) for step in range(10)]
    assert factor(config, 9, 10) == 1.0


def test_each_group_has_its_share_of_its_own_rate() -> None:
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimiser = build([one], OPTIMISER)
    optimiser.add_param_group({"params": [other], "rate": 0.5})
    optimiser.param_groups[0]["rate"] = 2e-3
    set_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [5e-4, 0.125]


class Exploding(LightningModule):
    """Loses its loss at the third step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.zeros(1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight])

    def training_step(self, batch: object, index: int) -> dict[str, Tensor]:
        return {"loss": torch.tensor(math.nan if index == 2 else 1.0), "learning_rate": torch.tensor(1.0)}


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    batches = Batches(lambda rows, _: {"x": torch.zeros(len(rows))}, count=4, batch_size=1, seed=0, steps=9)
    with pytest.raises(Diverged, match=r"The loss became nan at step 3\. Earlier checkpoints are kept"):
        fit(Exploding(), batches, 5, tmp_path)
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 4, "what led there is recorded"


def test_a_log_gets_plain_lines_that_end_with_the_last_step(
    autoencoder: Autoencoder,
    bars: ImageSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "draw", draw)
    fit(autoencoder_recipe(autoencoder, 3), of_images(bars), 3, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("step 3/3  loss ")
    assert not Console().is_terminal
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 4
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (700, 500)
        assert len(np.unique(np.asarray(image.convert("L")))) > 20, "curves are drawn"
    assert list((tmp_path / "tensorboard").iterdir())
