"""The second stage of an experiment: encode the images unless that is done, train, write the release."""

import shutil
from dataclasses import asdict
from pathlib import Path

from training.data import encoding, latents
from training.data.batches import Batches
from training.data.image_set import ImageSet
from training.data.locks import locked
from training.data.rows import ImageRows, LatentRows, centred
from training.experiments import conditioners
from training.experiments.schema import DiffusionExperiment, ExperimentError, built
from training.model.autoencoder import Autoencoder
from training.model.diffusion import Diffusion
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, save_diffusion
from training.model.release import Release
from training.model.unet import UNet
from training.previews import samples
from training.recipes.diffusion import DiffusionRecipe
from training.runs import card
from training.runs.checkpoints import CheckpointLocation
from training.runs.fit import fit
from training.runs.identity import Run, lineage_of, parents

GUIDANCE = 2.0  # of the pictures, where conditions were dropped in training


def train_diffusion(
    config: DiffusionExperiment, images: ImageSet, checkpoints: CheckpointLocation, release: Path
) -> bool:
    """Write the release folder; whether this is the first rank, which alone does so."""
    autoencoder, first_stage = load_autoencoder(Path(config.autoencoder))
    encoding.check(autoencoder, images)
    conditioning = conditioners.build(config, images, autoencoder.config)
    unet = built("model.unet", lambda: UNet(config.model.unet))
    model = LatentDiffusion(autoencoder, unet, conditioning, Diffusion(config.model.diffusion))
    model.unet.gradient_checkpointing = config.gradient_checkpointing
    size = config.data.crop or images.image_size
    latent_size = size // autoencoder.config.factor
    check_size(config, latent_size)
    read = rows(config, images, autoencoder, first_stage)
    recipe = DiffusionRecipe(
        model, config.optimiser, steps=config.steps, seed=config.seed, batch_size=config.batch_size,
        accumulate=config.accumulate, min_snr_gamma=config.loss.min_snr_gamma,
        timestep_sampling=config.loss.timestep_sampling, condition_dropout=config.loss.condition_dropout,
        ema_decay=config.ema_decay,
    )  # fmt: skip
    if config.compile:
        model.unet.compile(dynamic=False)

    def batches(rank: int, ranks: int) -> Batches:
        return Batches(
            read, count=len(images.rows("train")), batch_size=config.batch_size, seed=config.seed,
            steps=config.steps, rank=rank, ranks=ranks,
        )  # fmt: skip

    built("data", lambda: batches(0, 1))
    asked = samples.asked(centred(images, size), conditioners.requests(config))
    shape = (autoencoder.config.latent_channels, latent_size, latent_size)
    guidance = GUIDANCE if config.loss.condition_dropout > 0 else 1.0

    def pictures(path: Path) -> dict[str, object]:
        return {**samples.samples(recipe.released(), asked, shape, path, guidance=guidance)}

    run = Run.of(config, images.description.fingerprint)
    with checkpoints.open(run) as store:
        report = fit(recipe, batches, config, run, store=store, pictures=pictures)
    if report is None:
        return False
    shutil.rmtree(release, ignore_errors=True)
    release.mkdir()
    trained = recipe.released().cpu()
    samples.samples(trained, asked, shape, release / "sheet", guidance=guidance)
    for name in ("samples", "denoising"):
        (release / f"sheet-{name}.png").rename(release / f"{name}.png")
    (release / "card.md").write_text(card.diffusion(config, images.description, report.loss()))
    lineage = {**lineage_of(config, asdict(images.description)), **parents(config)}
    guided = config.loss.condition_dropout > 0
    save_diffusion(release, trained, name=config.name, image_size=size, guided=guided, lineage=lineage)
    return True


def rows(
    config: DiffusionExperiment, images: ImageSet, autoencoder: Autoencoder, first_stage: Release
) -> ImageRows | LatentRows:
    """What batches are read from: images, or latents, encoded now unless that is done. Raises DataError."""
    requests = conditioners.requests(config)
    if config.encode_each_step:
        return ImageRows(images, flip=config.data.flip, crop=config.data.crop, requests=requests)
    about = {"data_fingerprint": images.description.fingerprint, "autoencoder": first_stage.digest}
    flips = 2 if config.data.flip else 1
    if config.data.latents is not None:
        encoded = latents.read(Path(config.data.latents))
        latents.check(encoded, **about, flips=flips)
        return LatentRows(encoded, images, requests=requests)
    folder = Path(config.output) / "latents"
    with locked(folder):  # several ranks begin at once
        if (folder / latents.DESCRIPTION).is_file():
            encoded = latents.read(folder)
            if encoded.description.is_of(**about, flips=flips):
                return LatentRows(encoded, images, requests=requests)
        encoded = encoding.encode(autoencoder, images, folder, digest=first_stage.digest, flip=config.data.flip)
    return LatentRows(encoded, images, requests=requests)


def check_size(config: DiffusionExperiment, size: int) -> None:
    """Raise ExperimentError unless the U-Net can halve the latents as often as it does."""
    halvings = len(config.model.unet.multipliers) - 1
    if size % 2**halvings:
        raise ExperimentError(f"model.unet.multipliers: halve {size}x{size} latents {halvings} times")
