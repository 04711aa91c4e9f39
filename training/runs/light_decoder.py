"""Distils the decoder of a release into a light one, and writes the release with both."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data import encoding
from training.data.conditions import request_maker
from training.data.image_set import ImageSet
from training.data.rows import crop_centres, spread
from training.experiments.schema import ExperimentError, LightDecoderExperiment, convert_errors
from training.experiments.teachers import check_decoder
from training.model import light_release
from training.model.autoencoder import AutoencoderConfig
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, load_diffusion
from training.model.light_decoder import LightDecoder, LightDecoderConfig, widest
from training.model.release import LIGHT_DECODER, MANIFEST, Release
from training.model.release import read as read_release
from training.model.sampling import Sampler, generate
from training.previews import samples
from training.recipes.light_decoder import LightDecoderRecipe
from training.runs import card
from training.runs.callbacks import Previews
from training.runs.checkpoints import CheckpointLocation
from training.runs.fit import build_batches, fit, image_rows
from training.runs.identity import Run, lineage_of, parents

SAMPLED_BATCH = 16
GUIDANCE = 1.5  # of sampled latents, as for requests


def distil_decoder(
    config: LightDecoderExperiment, images: ImageSet, checkpoints: CheckpointLocation, release: Path
) -> bool:
    """Train and write the release folder. Returns whether this is the first rank, which alone writes it."""
    teacher = Path(config.teacher)
    autoencoder, description = load_autoencoder(teacher)
    encoding.check_images(autoencoder, images)
    recipe = make_recipe(config, sample_latents(config, images))
    light = recipe.light(recipe.trained)
    if config.compile:
        light.decoder.compile()
    batches = partial(build_batches, config, images, image_rows(config, images))
    convert_errors("data", batches)
    centres = crop_centres(images, config.data.crop or images.image_size)

    def draw_previews(path: Path) -> Previews:
        return samples.draw_decoders(recipe.own[0], recipe.light(recipe.average), centres, path)

    run = Run.of(config, images.description.fingerprint)
    with checkpoints.open(run) as store:
        report = fit(recipe, batches, config, run, store=store, draw_previews=draw_previews)
    if report is None:
        return False
    recipe.cpu()
    recipe.own[0].cpu()
    copy_files(teacher, release)
    draw_previews(release / "sheet")
    (release / "sheet-decoders.png").rename(release / f"{LIGHT_DECODER}.png")
    old = teacher / "card.md"  # which a release need not have
    before = old.read_text().partition(card.LIGHT_DECODER_TITLE)[0] if old.is_file() else f"# {config.name}\n"
    (release / "card.md").write_text(before + card.light_decoder(config, images.description, report.loss()))
    trained = recipe.light(recipe.average).eval()
    lineage = {**lineage_of(config, asdict(images.description)), **parents(config), "name": description.name}
    light_release.add(release, trained, replace(description, name=config.name), lineage)
    return True


def make_recipe(config: LightDecoderExperiment, sampled: Tensor | None = None) -> LightDecoderRecipe:
    """Return the recipe of an experiment. Raises ExperimentError or ReleaseError."""
    autoencoder, _ = load_autoencoder(Path(config.teacher))
    torch.manual_seed(config.seed)  # the initial weights
    light = convert_errors("model", lambda: LightDecoder(choose(config, autoencoder.config), autoencoder.config))
    return convert_errors("loss", lambda: LightDecoderRecipe(
        autoencoder, light, config.loss, config.optimiser, steps=config.steps, seed=config.seed,
        batch_size=config.batch_size, accumulate=config.accumulate, ema_decay=config.ema_decay, sampled=sampled,
    ))  # fmt: skip


def choose(config: LightDecoderExperiment, own: AutoencoderConfig) -> LightDecoderConfig:
    """Return the architecture of an experiment's light decoder. Raises ValueError naming the field."""
    model = config.model
    multipliers = own.multipliers if model.multipliers is None else model.multipliers
    light = LightDecoderConfig(model.channels or own.channels, multipliers, model.res_blocks, model.middle_attention)
    return light if model.channels is not None else widest(light, own, model.share)


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a release, without `release.json`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in read_release(source).files:
        if name != MANIFEST:
            shutil.copyfile(source / name, target / name)


@torch.no_grad()
def sample_latents(config: LightDecoderExperiment, images: ImageSet) -> Tensor | None:
    """Return latents that the teacher samples for requests of training images, [N, C, h, w]; None if none is needed."""
    if config.loss.sampled_share == 0:
        return None
    model, description = load_diffusion(Path(config.teacher))
    size = config.data.crop or images.image_size
    rows = spread(images.rows("train"), config.loss.sampled)
    requests = samples.requests_of_rows(crop_centres(images, size), request_maker(description), rows).requests
    model.to("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    parts: list[Tensor] = []
    for start in range(0, len(requests), SAMPLED_BATCH):
        part = requests[start : start + SAMPLED_BATCH]
        sample_part(model, description, part, start, parts)
    return torch.cat(parts).cpu()


def sample_part(
    model: LatentDiffusion, description: Release, requests: Sequence[dict[str, Any]], first: int, parts: list[Tensor]
) -> None:
    """Sample the latents of some requests as the service does by default, with seeds from `first` on."""
    distilled = description.distilled
    sampler, guidance = Sampler(), Guidance(GUIDANCE if description.guided else 1.0)
    if distilled is not None:
        sampler, guidance = Sampler("shortcut", distilled.best_steps), Guidance(distilled.best_guidance)
    seeds = range(first, first + len(requests))
    generate(
        model, requests, seeds, latent_shape=description.latent_shape, sampler=sampler, guidance=guidance,
        on_latents=parts.append,
    )  # fmt: skip


def check(config: LightDecoderExperiment) -> None:
    """Raise ExperimentError or ReleaseError unless a light decoder can be made, before the images are prepared."""
    teacher = read_release(Path(config.teacher))
    check_decoder(teacher)
    own = AutoencoderConfig(**teacher.architecture["autoencoder"])
    convert_errors("model", lambda: choose(config, own))
    if config.data.channels != own.image_channels:
        raise ExperimentError(
            f"data.channels: {config.data.channels}; the teacher {teacher.name} needs {own.image_channels}"
        )
    size = config.data.crop or config.data.image_size
    if size % own.factor:
        raise ExperimentError(f"data.image_size: {size} is not allowed; permitted: multiples of {own.factor}, as the "
                              f"teacher {teacher.name} needs")  # fmt: skip
    if config.loss.sampled_share == 0:
        return
    if teacher.kind != "diffusion":
        raise ExperimentError(f"loss.sampled_share: {config.loss.sampled_share:g} is not allowed, because "
                              f"{teacher.name} is an autoencoder, which samples nothing; permitted: 0")  # fmt: skip
    if config.data.bucket_step is not None or size != teacher.image_shape[1]:
        raise ExperimentError(f"loss.sampled_share: {config.loss.sampled_share:g} is not allowed with images of other "
                              f"sizes than {teacher.image_shape[1]}; permitted: 0")  # fmt: skip
