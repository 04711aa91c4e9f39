"""Trains the first stage of an experiment, measures the latent scale and writes the release."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from training.data.aspect_buckets import bucket_sizes
from training.data.image_set import ImageSet
from training.data.rows import crop_centres
from training.experiments.schema import AutoencoderExperiment, ExperimentError, convert_errors
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import save_autoencoder
from training.previews import samples
from training.recipes.autoencoder import AutoencoderRecipe
from training.recipes.discriminator import smallest_image
from training.recipes.latent_scale import measure_on_training_images
from training.runs import card
from training.runs.callbacks import Previews
from training.runs.checkpoints import CheckpointLocation
from training.runs.fit import build_batches, fit, image_rows
from training.runs.identity import Run, lineage_of, parents
from training.runs.progress import ProgressReport


def train_autoencoder(
    config: AutoencoderExperiment, images: ImageSet, checkpoints: CheckpointLocation, release: Path
) -> bool:
    """Train and write the release folder. Returns whether this is the first rank, which alone writes it."""
    model = convert_errors("model", lambda: Autoencoder(config.model))
    loss: float | None = None
    if config.model.regularisation != "identity":  # the identity has nothing to train, only a scale to measure
        report = train_model(model, config, images, checkpoints)
        loss = None if report is None else report.loss()
    model.eval().to("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    measure_on_training_images(model, images, seed=config.seed)
    if dist.is_initialized() and dist.get_rank() > 0:
        return False
    shutil.rmtree(release, ignore_errors=True)
    release.mkdir()
    model.cpu()
    samples.draw_reconstructions(model, crop_centres(images, config.data.crop or images.image_size), release / "sheet")
    (release / "sheet-reconstructions.png").rename(release / "samples.png")
    (release / "card.md").write_text(card.autoencoder(config, images.description, loss))
    save_autoencoder(
        release, model, name=config.name, image_size=config.data.crop or images.image_size,
        lineage={**lineage_of(config, asdict(images.description)), **parents(config)},
    )  # fmt: skip
    return True


def train_model(
    model: Autoencoder, config: AutoencoderExperiment, images: ImageSet, checkpoints: CheckpointLocation
) -> ProgressReport | None:
    """Train the model in place. Returns the report on the first rank, None on the others."""
    recipe = convert_errors(
        "loss",
        lambda: AutoencoderRecipe(
            model, config.loss, config.optimiser, steps=config.steps, seed=config.seed, batch_size=config.batch_size,
            accumulate=config.accumulate,
        ),
    )  # fmt: skip
    if config.compile:
        model.encoder.compile()
        model.decoder.compile()
    batches = partial(build_batches, config, images, image_rows(config, images))
    convert_errors("data", batches)
    run = Run.of(config, images.description.fingerprint)
    centres = crop_centres(images, config.data.crop or images.image_size)

    def draw_previews(path: Path) -> Previews:
        return samples.draw_reconstructions(model, centres, path)

    with checkpoints.open(run) as store:
        return fit(recipe, batches, config, run, store=store, draw_previews=draw_previews)


def check(config: AutoencoderExperiment) -> None:
    """Raise ExperimentError unless the model and the loss accept the images, before these are prepared."""
    size = config.data.crop or config.data.image_size
    if config.model.image_channels != config.data.channels:
        raise ExperimentError(
            f"model.image_channels: {config.model.image_channels}; the images have {config.data.channels}"
        )
    if size % config.model.factor:
        raise ExperimentError(
            f"model.multipliers: make latents 1/{config.model.factor} of {size} pixels, which is not whole; "
            f"set {config.data.whole_size(config.model.factor)}, for example"
        )
    step = config.data.bucket_step
    if step is not None and step % config.model.factor:
        raise ExperimentError(
            f"data.bucket_step: {step} is not allowed; permitted: multiples of {config.model.factor}, by which "
            "model.multipliers reduce images"
        )
    shortest = size if step is None else min(min(sides) for sides in bucket_sizes(size, step))
    layers = config.loss.adversarial_layers
    if config.loss.adversarial_weight > 0 and shortest < smallest_image(layers):
        raise ExperimentError(
            f"loss.adversarial_layers: {layers} is not allowed with images of {shortest} pixels a side; the "
            f"discriminator needs {smallest_image(layers)} for it"
        )
    if (side := size // config.model.factor) % 2 and side > 1:
        print(
            f"note: the latents have {side}x{side} pixels, an odd number, which a U-Net cannot halve; "
            f"{config.data.whole_size(2 * config.model.factor)} makes it even"
        )
