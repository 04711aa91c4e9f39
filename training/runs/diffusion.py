"""Trains the second stage of an experiment: encodes the images if needed, trains and writes the release."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

from training.data import encoding, latents
from training.data.bucket_batches import WholeRows
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.locks import lock_folder
from training.data.rows import ImageRows, LatentRows, crop_centres
from training.experiments import conditioners
from training.experiments.schema import DiffusionExperiment, DistillationExperiment, ExperimentError, convert_errors
from training.model import light_release
from training.model.autoencoder import Autoencoder
from training.model.diffusion import Diffusion
from training.model.interop.sources import open_release
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, save_diffusion
from training.model.release import Release
from training.model.release import read as read_release
from training.model.unet import UNet
from training.previews import samples
from training.recipes.diffusion import DiffusionRecipe
from training.recipes.latent_scale import measure_if_needed
from training.runs import card
from training.runs.callbacks import Previews
from training.runs.checkpoints import CheckpointLocation
from training.runs.copies import CopiedShare
from training.runs.fit import build_batches, fit, image_rows
from training.runs.held_out import COPIES, HeldOutJudge, HeldOutLoss
from training.runs.identity import Run, lineage_of, parents

GUIDANCE = 2.0  # scale for previews, if the model is trained with condition dropout


def train_diffusion(
    config: DiffusionExperiment, images: ImageSet, checkpoints: CheckpointLocation, release: Path
) -> bool:
    """Train and write the release folder. Returns whether this is the first rank, which alone writes it."""
    with open_release(Path(config.autoencoder), first_stage=True) as folder:
        autoencoder, first_stage = load_autoencoder(folder)
        light_decoder = light_release.load(folder, first_stage)
    encoding.check_images(autoencoder, images)
    scale = measure_if_needed(autoencoder, first_stage, images)
    conditioning = conditioners.build(config, images, autoencoder.config)
    cut = conditioners.count_cut_captions(conditioning, images)
    for field, (count, length) in cut.items():
        print(f"note: {count:,} captions are cut to {length} tokens; model.conditioners.{field}.length permits more")
    unet = convert_errors("model.unet", lambda: UNet(config.model.unet))
    model = LatentDiffusion(autoencoder, unet, conditioning, Diffusion(config.model.diffusion), light_decoder)
    model.unet.gradient_checkpointing = config.gradient_checkpointing
    size = config.data.crop or images.image_size
    latent_size = size // autoencoder.config.factor
    read = open_rows(config, images, autoencoder, first_stage, conditioners.requests(config))
    recipe = DiffusionRecipe(
        model, config.optimiser, steps=config.steps, seed=config.seed, batch_size=config.batch_size,
        accumulate=config.accumulate, min_snr_gamma=config.loss.min_snr_gamma,
        timestep_sampling=config.loss.timestep_sampling, condition_dropout=config.loss.condition_dropout,
        norm=config.loss.norm, ema_decay=config.ema_decay,
    )  # fmt: skip
    if config.compile:
        model.unet.compile(dynamic=False)

    batches = partial(build_batches, config, images, read)
    convert_errors("data", batches)
    requested = samples.preview_requests(crop_centres(images, size), conditioners.requests(config))
    shape = (autoencoder.config.latent_channels, latent_size, latent_size)
    guidance = GUIDANCE if config.loss.condition_dropout > 0 else 1.0

    def draw_previews(path: Path) -> Previews:
        return samples.draw_samples(recipe.averaged_model(), requested, shape, path, guidance=guidance)

    judge = make_judge(recipe, config, crop_centres(images, size), shape)
    run = Run.of(config, images.description.fingerprint)
    with checkpoints.open(run) as store:
        report = fit(recipe, batches, config, run, store=store, draw_previews=draw_previews, judge=judge)
    if report is None:
        return False
    if judge is not None:
        judge.restore_best()
    shutil.rmtree(release, ignore_errors=True)
    release.mkdir()
    trained = recipe.averaged_model().cpu()
    samples.draw_samples(trained, requested, shape, release / "sheet", guidance=guidance)
    for name in ("samples", "denoising"):
        (release / f"sheet-{name}.png").rename(release / f"{name}.png")
    (release / "card.md").write_text(card.diffusion(config, images.description, report.loss()))
    lineage = {**lineage_of(config, asdict(images.description)), **parents(config)}
    if scale is not None:
        lineage["latent_scale"] = {"value": scale, "from": "measured"}
    guided = config.loss.condition_dropout > 0
    made = save_diffusion(release, trained, name=config.name, image_size=size, guided=guided, lineage=lineage)
    light_release.carry(release, made, first_stage)
    return True


def make_judge(
    recipe: DiffusionRecipe, config: DiffusionExperiment, images: ImageSet, latent_shape: tuple[int, int, int]
) -> HeldOutJudge | None:
    """Return the judge of the held-out loss and of copies, if the experiment has one. Raises ExperimentError."""
    every = config.held_out.every_steps
    if every is None:
        return None
    if not images.rows("held_out"):
        raise ExperimentError(f"held_out.every_steps: {every}; no image is held out; permitted: null, or data.held_out "
                              "above 0")  # fmt: skip
    measure = HeldOutLoss(recipe, images, conditioners.requests(config))
    folder = Path(config.output)
    if config.held_out.copies is None:
        return HeldOutJudge(recipe, measure, config.held_out, every, folder)
    copied = CopiedShare(recipe, images, measure, latent_shape)
    return HeldOutJudge(recipe, lambda: {**measure(), COPIES: copied()}, config.held_out, every, folder)


def open_rows(
    config: DiffusionExperiment | DistillationExperiment, images: ImageSet, autoencoder: Autoencoder,
    first_stage: Release, requests: Requests,
) -> ImageRows | WholeRows | LatentRows:  # fmt: skip
    """Return the reader of batches: of images, or of latents, which are encoded first if needed. Raises DataError."""
    if config.encode_each_step:
        return image_rows(config, images, requests)
    about = {"data_fingerprint": images.description.fingerprint, "autoencoder": first_stage.digest}
    flips = 2 if config.data.flip else 1
    if config.data.latents is not None:
        encoded = latents.read(Path(config.data.latents))
        latents.check(encoded, **about, flips=flips)
        return LatentRows(encoded, images, requests=requests)
    folder = Path(config.output) / "latents"
    with lock_folder(folder):  # several ranks start at the same time
        if (folder / latents.DESCRIPTION).is_file():
            encoded = latents.read(folder)
            if encoded.description.matches(**about, flips=flips):
                return LatentRows(encoded, images, requests=requests)
        encoded = encoding.encode(autoencoder, images, folder, digest=first_stage.digest, flip=config.data.flip)
    return LatentRows(encoded, images, requests=requests)


def check(config: DiffusionExperiment) -> None:
    """Raise ExperimentError unless the first stage and the U-Net accept the images, before these are prepared."""
    first_stage = read_release(Path(config.autoencoder))
    if first_stage.kind != "autoencoder":
        return  # loading it tells
    size = config.data.crop or config.data.image_size
    cut = "data.image_size" if config.data.crop is None else "data.crop"
    factor = first_stage.image_shape[1] // first_stage.latent_shape[1]
    if config.data.channels != first_stage.image_shape[0]:
        raise ExperimentError(
            f"data.channels: {config.data.channels}; the autoencoder {config.autoencoder} needs "
            f"{first_stage.image_shape[0]}"
        )
    if size % factor:
        raise ExperimentError(
            f"{cut}: {size} is not allowed; permitted: multiples of {factor}, as the autoencoder "
            f"{config.autoencoder} needs"
        )
    halvings = len(config.model.unet.multipliers) - 1
    if (side := size // factor) % 2**halvings:
        whole = factor * 2**halvings
        raise ExperimentError(
            f"model.unet.multipliers: {side}x{side} latents cannot be halved {halvings} times; "
            f"set {config.data.whole_size(whole)}" + ("" if config.data.crop else ", here and in the first stage")
        )
    step, unit = config.data.bucket_step, factor * 2**halvings
    if step is not None and step % unit:
        raise ExperimentError(
            f"data.bucket_step: {step} is not allowed; permitted: multiples of {unit}, by which the autoencoder and "
            "the U-Net reduce images"
        )
