"""The first stage of an experiment: train, measure the latent scale, write the release."""

import shutil
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from training.data.batches import Batches
from training.data.image_set import ImageSet
from training.data.rows import ImageRows, centred
from training.experiments.schema import AutoencoderExperiment, ExperimentError, built
from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import save_autoencoder
from training.previews import samples
from training.recipes.autoencoder import AutoencoderRecipe, measure_latent_scale
from training.recipes.discriminator import SMALLEST_IMAGE
from training.runs import card
from training.runs.checkpoints import CheckpointLocation
from training.runs.fit import fit
from training.runs.identity import Run, lineage_of, parents
from training.runs.progress import ProgressReport

MEASURED = 32  # images of a batch when the latent scale is measured
MOST_MEASURED = 10_000  # images that are measured at most


def train_autoencoder(
    config: AutoencoderExperiment, images: ImageSet, checkpoints: CheckpointLocation, release: Path
) -> bool:
    """Write the release folder; whether this is the first rank, which alone does so."""
    check(config, images)
    model = built("model", lambda: Autoencoder(config.model))
    loss: float | None = None
    if config.model.regularisation != "identity":  # its latents are the pixels; only their scale is to be found
        report = trained(model, config, images, checkpoints)
        loss = None if report is None else report.loss()
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model.eval().to("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    rows = list(images.rows("train"))[rank:MOST_MEASURED:ranks]
    parts = (images.pixels(rows[start : start + MEASURED]) for start in range(0, len(rows), MEASURED))
    measure_latent_scale(model, parts, seed=config.seed)
    if rank > 0:
        return False
    shutil.rmtree(release, ignore_errors=True)
    release.mkdir()
    model.cpu()
    samples.reconstructions(model, centred(images, config.data.crop or images.image_size), release / "sheet")
    (release / "sheet-reconstructions.png").rename(release / "samples.png")
    (release / "card.md").write_text(card.autoencoder(config, images.description, loss))
    save_autoencoder(
        release, model, name=config.name, image_size=config.data.crop or images.image_size,
        lineage={**lineage_of(config, asdict(images.description)), **parents(config)},
    )  # fmt: skip
    return True


def trained(
    model: Autoencoder, config: AutoencoderExperiment, images: ImageSet, checkpoints: CheckpointLocation
) -> ProgressReport | None:
    """Train the model. Returns the report on the first rank."""
    recipe = built(
        "loss",
        lambda: AutoencoderRecipe(
            model, config.loss, config.optimiser, steps=config.steps, seed=config.seed, batch_size=config.batch_size,
            accumulate=config.accumulate,
        ),
    )  # fmt: skip
    if config.compile:
        model.encoder.compile()
        model.decoder.compile()
    read = ImageRows(images, flip=config.data.flip, crop=config.data.crop)

    def batches(rank: int, ranks: int) -> Batches:
        return Batches(
            read, count=len(images.rows("train")), batch_size=config.batch_size, seed=config.seed,
            steps=config.steps, rank=rank, ranks=ranks,
        )  # fmt: skip

    built("data", lambda: batches(0, 1))
    run = Run.of(config, images.description.fingerprint)
    shown = centred(images, config.data.crop or images.image_size)

    def pictures(path: Path) -> dict[str, object]:
        return {**samples.reconstructions(model, shown, path)}

    with checkpoints.open(run) as store:
        return fit(recipe, batches, config, run, store=store, pictures=pictures)


def check(config: AutoencoderExperiment, images: ImageSet) -> None:
    """Raise ExperimentError unless the model and the loss take these images."""
    size = config.data.crop or images.image_size
    if config.model.image_channels != images.channels:
        raise ExperimentError(f"model.image_channels: {config.model.image_channels}; the images have {images.channels}")
    if size % config.model.factor:
        raise ExperimentError(f"model.multipliers: make latents 1/{config.model.factor} of {size} pixels, not whole")
    if config.loss.adversarial_weight > 0 and size < SMALLEST_IMAGE:
        raise ExperimentError(
            f"loss.adversarial_weight: the discriminator needs images of at least {SMALLEST_IMAGE} pixels; "
            f"these have {size}"
        )
