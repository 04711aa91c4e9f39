"""The releases that can be distilled, and the images for it."""

from dataclasses import replace
from pathlib import Path

import torch

from training.data import masks
from training.data.conditions import count_missing, other_classes, types_of
from training.data.image_set import DataError, ImageSet
from training.experiments.schema import DataConfig, ExperimentError
from training.model.conditioners import ClassConditioner
from training.model.latent_diffusion import LatentDiffusion, load_diffusion
from training.model.release import Release
from training.recipes.distillation_loss import DistillationLossConfig


def load_teacher(folder: Path) -> tuple[LatentDiffusion, Release]:
    """Load a release that can be distilled. Raises ReleaseError or ExperimentError."""
    model, description = load_diffusion(folder)
    check_teacher(description)
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ExperimentError(
                f"teacher: {description.name}: {name} has NaN or infinite values; distil another release"
            )
    for field, one in model.conditioners.by_field().items():
        if isinstance(one, ClassConditioner):  # their names are a part of the schema alone
            one.names = description.class_names(field)
    return model, description


def check_teacher(teacher: Release) -> None:
    """Raise ExperimentError unless a release can be distilled. Reads no weights."""
    if teacher.kind != "diffusion":
        raise ExperimentError(f"teacher: {teacher.name} is an {teacher.kind}; permitted: a diffusion release")
    if teacher.distilled is not None or teacher.architecture["unet"].get("numbers"):
        raise ExperimentError(f"teacher: {teacher.name} is distilled already; distil the release that it was made of")
    diffusion = teacher.architecture["diffusion"]
    if diffusion.get("zero_terminal_snr") and diffusion.get("parameterisation", "eps") == "eps":
        raise ExperimentError(f"teacher: {teacher.name} predicts eps with zero terminal SNR, which says nothing about "
                              "the data where sampling begins; permitted: v, x0, flow")  # fmt: skip
    if teacher.conditions.get("properties") and not teacher.guided:
        raise ExperimentError(
            f"teacher: {teacher.name} has no null condition: it was trained without condition dropout, so there is no "
            "guidance to distil; train it with loss.condition_dropout=0.1"
        )


def trained_scales(teacher: Release, loss: DistillationLossConfig) -> DistillationLossConfig:
    """Return the loss with the scales that a student is trained for: 1 alone if its teacher has no conditions."""
    return loss if teacher.guided else replace(loss, guidance_low=1.0, guidance_high=1.0)


def check_decoder(teacher: Release) -> None:
    """Raise ExperimentError unless the decoder of a release can be distilled. Reads no weights."""
    if teacher.architecture["autoencoder"]["regularisation"] == "identity":
        raise ExperimentError(f"teacher: the latents of {teacher.name} are the pixels, so there is nothing to decode")


def check_images(data: DataConfig, teacher: Release, images: ImageSet) -> None:
    """Raise DataError unless the images have the classes of the teacher, and values for its conditions."""
    count = len(images.rows("train"))
    for field, kind in types_of(teacher).items():
        where = f"data.root: {field}"
        if other := other_classes(teacher, field, f"the teacher {teacher.name}", images.description):
            raise DataError(f"{where}: {other}")
        missing = count_missing(images, kind, given_masks=data.masks == "given")
        if missing == count or missing > data.max_bad * count:
            raise DataError(f"{where}: {missing} of {count} training images have no value for it; "
                            f"permitted: data.max_bad={100 * data.max_bad:g} %")  # fmt: skip
        if kind == "masked_image" and data.masks != "given" and images.image_size < masks.SMALLEST:
            raise DataError(f"{where}: holes need images of at least {masks.SMALLEST} pixels a side, and these have "
                            f"{images.image_size}")  # fmt: skip
