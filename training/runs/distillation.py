"""Distils a release: encodes the images if needed, trains the student and writes its release."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

from training.data.conditions import request_maker
from training.data.image_set import ImageSet
from training.data.rows import crop_centres
from training.experiments.schema import DistillationExperiment, ExperimentError, convert_errors
from training.experiments.teachers import check_images, check_teacher, load_teacher, trained_scales
from training.model import light_release
from training.model.latent_diffusion import save_diffusion
from training.model.release import Distilled
from training.model.release import read as read_release
from training.model.sampling import Sampler
from training.previews import samples
from training.recipes.distillation import DistillationRecipe
from training.recipes.distillation_loss import SERVED
from training.runs import card
from training.runs.callbacks import Previews
from training.runs.checkpoints import CheckpointLocation
from training.runs.diffusion import open_rows
from training.runs.fit import build_batches, fit
from training.runs.identity import Run, lineage_of, parents

GUIDANCE = 1.5  # by default, as for other releases
PREVIEW = 4  # evaluations


def distil(config: DistillationExperiment, images: ImageSet, checkpoints: CheckpointLocation, release: Path) -> bool:
    """Train and write the release folder. Returns whether this is the first rank, which alone writes it."""
    teacher, description = load_teacher(Path(config.teacher))
    check_images(config.data, description, images)
    size = config.data.crop or images.image_size
    requests = request_maker(description)
    read = open_rows(config, images, teacher.autoencoder, description, requests)
    loss = trained_scales(description, config.loss)
    recipe = convert_errors("loss", lambda: DistillationRecipe(
        teacher, loss, config.optimiser, steps=config.steps, seed=config.seed, batch_size=config.batch_size,
        accumulate=config.accumulate, ema_decay=config.ema_decay,
    ))  # fmt: skip
    unet = recipe.student_unet
    unet.gradient_checkpointing = config.gradient_checkpointing
    if config.compile:
        unet.compile(dynamic=False)
    batches = partial(build_batches, config, images, read)
    convert_errors("data", batches)
    requested = samples.preview_requests(crop_centres(images, size), requests)
    factor = teacher.autoencoder.config.factor
    shape = (teacher.autoencoder.config.latent_channels, size // factor, size // factor)
    guidance = min(GUIDANCE, loss.guidance_high)

    def draw_previews(path: Path) -> Previews:
        sampler = Sampler("shortcut", PREVIEW)
        return samples.draw_samples(recipe.averaged_model(), requested, shape, path, guidance=guidance, sampler=sampler)

    run = Run.of(config, images.description.fingerprint)
    with checkpoints.open(run) as store:
        report = fit(recipe, batches, config, run, store=store, draw_previews=draw_previews)
    if report is None:
        return False
    served = Distilled(SERVED, (loss.guidance_low, loss.guidance_high), SERVED[-1], guidance)
    shutil.rmtree(release, ignore_errors=True)
    release.mkdir()
    recipe.cpu()
    teacher.cpu()
    draw_previews(release / "sheet")
    for name in ("samples", "denoising"):
        (release / f"sheet-{name}.png").rename(release / f"{name}.png")
    about = f"{description.name} ({description.digest[:12]})"
    (release / "card.md").write_text(card.distillation(config, images.description, report.loss(), about, served))
    lineage = {**lineage_of(config, asdict(images.description)), **parents(config)}
    if "autoencoder" in description.lineage:
        lineage["autoencoder"] = description.lineage["autoencoder"]
    trained = recipe.averaged_model().cpu()
    made = save_diffusion(release, trained, name=config.name, image_size=size, distilled=served, lineage=lineage)
    light_release.carry(release, made, description)
    return True


def check(config: DistillationExperiment) -> None:
    """Raise ExperimentError or ReleaseError unless the teacher can be distilled, before the images are prepared."""
    teacher = read_release(Path(config.teacher))
    check_teacher(teacher)
    size = config.data.crop or config.data.image_size
    channels, side, _ = teacher.image_shape
    for field, given, needed in (("channels", config.data.channels, channels), ("image_size", size, side)):
        if given != needed:
            raise ExperimentError(f"data.{field}: {given}; the teacher {teacher.name} makes images of "
                                  f"{channels}x{side}x{side}")  # fmt: skip
