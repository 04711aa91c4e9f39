"""The recipes under Lightning's trainer, for a few steps on small images."""

import copy
import logging
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor, nn

from training.data.batches import Batches
from training.data.image_set import ImageSet
from training.experiment import Diverged
from training.losses import AutoencoderLossConfig, adaptive_weight
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import LatentDiffusion
from training.progress import ProgressReport
from training.randomness import step_generator
from training.recipes.autoencoder import AutoencoderRecipe, measure_latent_scale
from training.recipes.diffusion import DiffusionRecipe, update_average
from training.recipes.optimiser import OptimiserConfig, build

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # in Lightning
OPTIMISER = OptimiserConfig(learning_rate=2e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup_steps=2, clip_norm=1.0)


def fit(
    recipe: LightningModule, batches: Batches, steps: int, folder: Path, watcher: Callback | None = None
) -> list[float]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    report = ProgressReport(steps, folder / "losses.csv")
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=steps,
        callbacks=[report, *([watcher] if watcher else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(recipe, batches)
    return report.losses


def snapshot(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def of_images(images: ImageSet) -> Batches:
    return Batches({"image": images.split("train")[0]}, batch_size=8, seed=0)


def of_latents(seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(0)
    moments = torch.stack([torch.randn(12, 2, 8, 8, generator=generator), torch.full((12, 2, 8, 8), 0.1)], dim=1)
    return Batches({"moments": moments, "label": torch.arange(12) % 3}, batch_size=6, seed=seed)


def autoencoder_recipe(autoencoder: Autoencoder, steps: int, **loss: float) -> AutoencoderRecipe:
    torch.manual_seed(0)
    return AutoencoderRecipe(autoencoder, AutoencoderLossConfig(**loss), OPTIMISER, steps=steps, seed=0)  # type: ignore[arg-type]


def diffusion_recipe(model: LatentDiffusion, steps: int, seed: int = 0, **options: float) -> DiffusionRecipe:
    return DiffusionRecipe(model, OPTIMISER, steps=steps, seed=seed, **options)  # type: ignore[arg-type]


def test_a_few_steps_lower_the_autoencoder_s_loss(bars: ImageSet, autoencoder: Autoencoder, tmp_path: Path) -> None:
    losses = fit(autoencoder_recipe(autoencoder, 12), of_images(bars), 12, tmp_path)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_the_discriminator_moves_from_its_start_on(autoencoder: Autoencoder, tmp_path: Path) -> None:
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recipe = autoencoder_recipe(autoencoder, 6, adversarial_weight=0.5, adversarial_start=3)
    assert recipe.discriminator is not None
    history = [snapshot(recipe.discriminator)]
    weights = [snapshot(recipe.autoencoder)]

    class Watcher(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
            history.append(snapshot(recipe.discriminator))  # type: ignore[arg-type]
            weights.append(snapshot(recipe.autoencoder))

    fit(recipe, Batches({"image": images}, batch_size=2, seed=0), 6, tmp_path, Watcher())
    moved = [not same(a, b) for a, b in pairwise(history)]
    assert moved == [False, False, False, True, True, True]
    assert not any(same(a, b) for a, b in pairwise(weights)), "the autoencoder moves every step"
    rows = (tmp_path / "losses.csv").read_text().splitlines()
    assert rows[0] == "step,total,reconstruction,l1,perceptual,kl,adversarial,discriminator,loss"
    discriminator = [float(row.split(",")[7]) for row in rows[1:]]
    assert [value > 0 for value in discriminator] == [False, False, False, True, True, True]


def test_without_adversarial_weight_there_is_no_discriminator(autoencoder: Autoencoder) -> None:
    assert autoencoder_recipe(autoencoder, 1).discriminator is None


def test_the_adaptive_weight_balances_the_gradients_at_the_last_layer() -> None:
    layer = torch.ones(3, requires_grad=True)
    weight = adaptive_weight((layer * 6).sum(), (layer * torch.tensor([2.0, 2.0, 2.0])).sum(), layer)
    assert float(weight) == pytest.approx(3.0, rel=1e-3)
    assert not weight.requires_grad


def test_the_latent_scale_brings_posterior_samples_to_unit_deviation(bars: ImageSet, autoencoder: Autoencoder) -> None:
    images, _ = bars.split("train")
    with torch.no_grad():
        autoencoder.quant_conv.weight.mul_(4)
        posterior = autoencoder.posterior(images)
        draws = torch.stack([posterior.sample() for _ in range(30)])
    scale = measure_latent_scale(autoencoder, iter(images.split(5)), seed=0)
    assert scale == pytest.approx(1 / float(draws.std()), rel=0.02)
    assert float(autoencoder.latent_scale) == scale


def test_a_few_steps_lower_the_diffusion_loss(latent_diffusion: LatentDiffusion, tmp_path: Path) -> None:
    recipe = diffusion_recipe(latent_diffusion, 60)
    losses = fit(recipe, of_latents(), 60, tmp_path)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("recipe", ["autoencoder", "diffusion"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    recipe: str, bars: ImageSet, latent_diffusion: LatentDiffusion, tmp_path: Path
) -> None:
    def trained(seed: int) -> list[Tensor]:
        model = copy.deepcopy(latent_diffusion)
        torch.rand(seed)  # the global generator's state must not matter
        if recipe == "autoencoder":
            loss = AutoencoderLossConfig()
            fit(AutoencoderRecipe(model.autoencoder, loss, OPTIMISER, steps=3, seed=seed), of_images(bars), 3, tmp_path)
        else:
            fit(diffusion_recipe(model, 3, seed), of_latents(), 3, tmp_path)
        return snapshot(model)

    one = trained(1)
    torch.manual_seed(99)
    assert same(one, trained(1))
    assert not same(one, trained(2))


def test_released_weights_are_the_average_and_the_autoencoder_is_untouched(
    latent_diffusion: LatentDiffusion, tmp_path: Path
) -> None:
    before, first_stage = snapshot(latent_diffusion.unet), snapshot(latent_diffusion.autoencoder)
    recipe = diffusion_recipe(latent_diffusion, 4, ema_decay=0.5)
    fit(recipe, of_latents(), 4, tmp_path)
    released = recipe.released(latent_diffusion)
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


def test_dropped_conditions_are_the_null_condition(latent_diffusion: LatentDiffusion) -> None:
    labels = torch.arange(300) % 3

    def nulls(share: float) -> float:
        recipe = diffusion_recipe(latent_diffusion, 1, condition_dropout=share)
        tokens = recipe.conditions(labels, (8, 8), torch.Generator().manual_seed(0)).tokens
        null = latent_diffusion.conditioners([None], (8, 8), latent_diffusion.autoencoder.encode).tokens
        return float((tokens == null).all(-1).double().mean())

    assert nulls(0.0) == 0.0
    assert nulls(0.4) == pytest.approx(0.4, abs=0.08)


def test_randomness_is_a_function_of_seed_step_and_rank() -> None:
    def draw(*key: int) -> tuple[float, float]:
        generator = step_generator(key[0], key[1], rank=key[2])
        return float(torch.rand((), generator=generator)), float(torch.rand(()))

    assert draw(1, 2, 0) == draw(1, 2, 0)
    assert len({draw(*key) for key in [(1, 2, 0), (2, 1, 0), (1, 3, 0), (1, 2, 1), (3, 0, 0), (0, 3, 0)]}) == 6


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    config = OptimiserConfig(learning_rate=1.0, betas=(0.9, 0.99), weight_decay=0.0, warmup_steps=4, clip_norm=1.0)
    optimiser, schedule = build([parameter], config, 100)
    rates = []
    for _ in range(100):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6], rel=1e-2)
    assert max(rates) == pytest.approx(1.0, rel=1e-2)
    assert rates[50] == pytest.approx(0.5, abs=1e-6)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


class Exploding(LightningModule):
    """Loses its loss at the third step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.zeros(1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight])

    def training_step(self, batch: object, index: int) -> dict[str, Tensor]:
        return {"loss": torch.tensor(math.nan if index == 2 else 1.0)}


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"The loss became nan at step 3; lower optimiser\.learning_rate"):
        fit(Exploding(), Batches({"x": torch.zeros(4)}, batch_size=1, seed=0), 5, tmp_path)


def test_a_log_gets_plain_lines_that_end_with_the_last_step(
    autoencoder: Autoencoder, bars: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(autoencoder_recipe(autoencoder, 3), of_images(bars), 3, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("step 3/3  loss ")
    assert not Console().is_terminal
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 4
