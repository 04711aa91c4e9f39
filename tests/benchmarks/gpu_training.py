"""Parts of `tests.benchmarks.gpu` about training: steps of both stages, and diffusers' on the same network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.benchmarks.gpu_parts import LDM4, SMALLEST, operations_a_row
from tests.benchmarks.gpu_timing import DEVICE, Report, median_seconds, prepares
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners import Conditioners
from training.model.conditioners.classes import ClassConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop.huggingface.unet import unet_component
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet
from training.recipes.autoencoder import AutoencoderRecipe
from training.recipes.diffusion import DiffusionRecipe
from training.recipes.equivariance import Turn
from training.recipes.losses import AutoencoderLossConfig
from training.recipes.optimiser import OptimiserConfig
from training.recipes.recipe import Recipe

OPTIMISER = OptimiserConfig(1e-5, (0.9, 0.999), 1e-2, warmup_steps=0, clip_norm=1.0, schedule="constant")
FIRST = AutoencoderConfig(latent_channels=3, regularisation="vq", codebook_size=8192)  # of LDM-4
FIRST_SMALLEST = AutoencoderConfig(
    channels=32, multipliers=(1, 1), res_blocks=1, latent_channels=3, regularisation="vq", codebook_size=64
)


def step_of(recipe: Recipe, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a step: the loss in bf16-mixed, its gradients, clipping and the optimiser."""
    optimiser = recipe.build_optimisers()[0]
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            value = loss()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def first_stage(smallest: bool, report: Report) -> None:
    """Steps of the autoencoder without its discriminator, eager and compiled."""
    config, rows, side = (FIRST_SMALLEST, 2, 16) if smallest else (FIRST, 12, 256)
    model = Autoencoder(config)
    loss = AutoencoderLossConfig(adversarial_weight=0.0)
    recipe = AutoencoderRecipe(model, loss, OPTIMISER, steps=1000, seed=0, batch_size=rows).to(DEVICE)
    images = torch.rand(rows, 3, side, side, device=DEVICE) * 2 - 1
    noise, turn = torch.randn_like(images), Turn()
    if config.regularisation == "kl":
        noise = torch.randn_like(model.posterior(images).mean)
    step = step_of(recipe, lambda: recipe.reconstruct(images, noise, turn, None)[0]["objective"])
    if not prepares():
        report(f"first stage, eager, {rows} rows, samples/s", rows / median_seconds(step, 5))
    if DEVICE.type == "cuda":
        model.encoder.compile()
        model.decoder.compile()
        report(f"first stage, compiled, {rows} rows, samples/s", rows / median_seconds(step, 5))


def second_stage(smallest: bool, report: Report) -> None:
    """Steps of LDM-4, eager and compiled, with and without diffusers: the parts of both are the same."""
    config, rows, side = (SMALLEST, 2, 8) if smallest else (LDM4, 40, 64)
    torch.manual_seed(0)
    unet = UNet(config)
    theirs = diffusers_step(unet, rows, side)
    model = LatentDiffusion(
        Autoencoder(FIRST_SMALLEST), unet,
        Conditioners({"class_label": ClassConditioner(1000, config.context_width or 0)}), Diffusion(DiffusionConfig()),
    )  # fmt: skip
    recipe = DiffusionRecipe(model, OPTIMISER, steps=1000, seed=0, batch_size=rows).to(DEVICE)
    eps = torch.randn(rows, 3, side, side, device=DEVICE)
    batch = {
        "moments": torch.stack([eps, torch.zeros_like(eps)], 1),
        "requests": [{"class_label": row} for row in range(rows)],
    }
    drawn = {
        "posterior": eps, "eps": eps, "t": torch.arange(rows, device=DEVICE),
        "dropped": torch.zeros(rows, dtype=torch.bool),
    }  # fmt: skip
    step = step_of(recipe, lambda: recipe.loss(batch, drawn))
    operations = 3 * rows * operations_a_row(unet, side)
    if not prepares():
        report(f"second stage, eager, {rows} rows, samples/s", rows / median_seconds(step, 5))
        report(f"diffusers, eager, {rows} rows, samples/s", rows / median_seconds(theirs(False), 5))
    if DEVICE.type == "cuda":
        unet.compile(dynamic=False)
        torch.cuda.reset_peak_memory_stats()
        seconds = median_seconds(step, 5)
        report(f"second stage, compiled, {rows} rows, samples/s", rows / seconds)
        report("second stage, compiled, TFLOP/s", operations / seconds / 1e12)
        report("second stage, compiled, GiB at most", torch.cuda.max_memory_allocated() / 2**30)
        report(f"diffusers, compiled, {rows} rows, samples/s", rows / median_seconds(theirs(True), 5))


def diffusers_step(unet: UNet, rows: int, side: int) -> Callable[[bool], Callable[[], None]]:
    """Return a function that takes whether to compile, and returns a step of diffusers' network."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    component = unet_component(unet, latent_size=side)
    width = unet.config.context_width or 0

    def build(compiles: bool) -> Callable[[], None]:
        model = UNet2DConditionModel.from_config(component.config).to(DEVICE, memory_format=torch.channels_last)
        network = torch.compile(model, dynamic=False) if compiles else model
        scheduler = DDPMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        latents, context = torch.randn(rows, 3, side, side, device=DEVICE), torch.randn(rows, 1, width, device=DEVICE)
        t = torch.arange(rows, device=DEVICE)

        def step() -> None:
            noise = torch.randn_like(latents)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                answer = network(scheduler.add_noise(latents, noise, t), t, context).sample
                loss = nn.functional.mse_loss(answer.float(), noise)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()

        return step

    return build
