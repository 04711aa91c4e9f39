"""Measures on this machine how long the steps of a training take."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.image_set import Description, ImageSet
from training.experiments import conditioners
from training.experiments.schema import AutoencoderExperiment, DiffusionExperiment
from training.metrics.classifier import BATCH as CLASSIFIER_BATCH
from training.metrics.classifier import About, Classifier
from training.metrics.targets import Targets
from training.model.autoencoder import Autoencoder
from training.model.diffusion import Diffusion
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet
from training.recipes.autoencoder import AutoencoderRecipe
from training.recipes.diffusion import DiffusionRecipe
from training.recipes.equivariance import Turn
from training.recipes.recipe import Recipe

REPEATS = 3  # of what is measured, after one that is not counted
LEAST_SECONDS = 0.5  # of a measurement, so that short steps are repeated


@dataclass(frozen=True)
class Timings:
    """Seconds: of a training step of each stage, and of one picture through each network without gradients."""

    first_step: float
    second_step: float
    denoise: float  # one evaluation of the U-Net
    encode: float
    decode: float
    classifier_step: float


def measure(
    first: AutoencoderExperiment,
    second: DiffusionExperiment,
    classes: Sequence[str],
    texts: Sequence[str],
    autoencoder: Autoencoder | None = None,
) -> Timings:
    """Take a few steps of both stages on random pictures. autoencoder: a first stage that is not trained.

    classes, texts: of the pictures, on which the size of the conditioners depends.
    """
    device = "cuda" if torch.cuda.is_available() and second.device != "cpu" else "cpu"
    images = random_pictures(second, classes, texts)
    first_step = 0.0
    if autoencoder is None:
        autoencoder = Autoencoder(first.model)
        if first.model.regularisation != "identity":
            first_step = time_first_stage(autoencoder, first, images, device)
    autoencoder = autoencoder.to(device).eval()
    pixels = images.pixels(range(8)).to(device)
    with torch.inference_mode():
        latents = autoencoder.encode(pixels)
        encode = seconds_of(lambda: autoencoder.encode(pixels)) / len(pixels)
        decode = seconds_of(lambda: autoencoder.decode(latents)) / len(pixels)
    second_step, denoise = time_second_stage(autoencoder, second, images, device)
    return Timings(first_step, second_step, denoise, encode, decode, time_classifier(images))


def random_pictures(config: DiffusionExperiment, classes: Sequence[str], texts: Sequence[str]) -> ImageSet:
    """Return a set of random pictures with these classes and captions in turn."""
    size, count = config.data.image_size, max(config.batch_size, CLASSIFIER_BATCH)
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, config.data.channels), dtype=np.uint8)
    records = [
        {"label": i % len(classes) if classes else 0, "text": texts[i % len(texts)] if texts else ""}
        for i in range(count)
    ]
    return ImageSet(pixels, records, Description("random", count, count, "", tuple(classes)))


def time_first_stage(model: Autoencoder, config: AutoencoderExperiment, images: ImageSet, device: str) -> float:
    """Return the seconds of a training step of the first stage."""
    recipe = AutoencoderRecipe(
        model, config.loss, config.optimiser, steps=config.steps, seed=0, batch_size=config.batch_size
    ).to(device)
    batch = images.pixels(range(config.batch_size)).to(device)
    turn = Turn()
    noise = torch.randn_like(model.posterior(batch).mean if config.model.regularisation == "kl" else batch)
    return time_steps(recipe, device, lambda: recipe.reconstruct(batch, noise, turn, None)[0]["objective"])


def time_second_stage(
    autoencoder: Autoencoder, config: DiffusionExperiment, images: ImageSet, device: str
) -> tuple[float, float]:
    """Return the seconds of a training step, and of an evaluation of the U-Net for one picture."""
    conditioning = conditioners.build(config, images, autoencoder.config)
    model = LatentDiffusion(autoencoder, UNet(config.model.unet), conditioning, Diffusion(config.model.diffusion))
    count, side = config.batch_size, images.image_size // autoencoder.config.factor
    recipe = DiffusionRecipe(model, config.optimiser, steps=config.steps, seed=0, batch_size=count).to(device)
    values = {"class": "label", "text": "text"}  # by the type of a condition
    conditions = config.model.conditioners
    requests = [
        {field: images.records[row][values[one.type]] for field, one in conditions.items()} for row in range(count)
    ]
    eps = torch.randn(count, autoencoder.config.latent_channels, side, side, device=device)
    rows = {"moments": torch.stack([eps, torch.zeros_like(eps)], 1), "requests": requests}
    drawn = {
        "posterior": eps, "eps": eps, "t": torch.arange(count, device=device),
        "dropped": torch.zeros(count, dtype=torch.bool),
    }  # fmt: skip
    step = time_steps(recipe, device, lambda: recipe.loss(rows, drawn))
    with torch.inference_mode():
        return step, seconds_of(lambda: recipe.loss(rows, drawn)) / count


def time_classifier(images: ImageSet) -> float:
    """Return the seconds of a training step of the classifier for evaluations, which trains on the CPU."""
    names = tuple(map(str, range(10)))
    about = About("random", "", images.channels, images.image_size, Targets("label", names), 0, 0, 0.0, 0.0)
    classifier = Classifier(about)
    pixels = images.pixels(range(CLASSIFIER_BATCH))

    def step() -> None:
        torch.autograd.backward(classifier(pixels).square().mean())

    return seconds_of(step)


def time_steps(recipe: Recipe, device: str, loss: Callable[[], Tensor]) -> float:
    """Return the seconds of a step: the loss, its gradients, and the optimiser."""
    optimiser = recipe.build_optimisers()[0]

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss()
        torch.autograd.backward(value)
        optimiser.step()
        optimiser.zero_grad()

    return seconds_of(step)


def seconds_of(act: Callable[[], object]) -> float:
    """Return the mean seconds of a call, after one that warms up."""
    act()
    began, count = time.monotonic(), 0
    while count < REPEATS or time.monotonic() - began < LEAST_SECONDS:
        act()
        count += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.monotonic() - began) / count
