"""Builds the conditioners of an experiment, checked against the annotations of the image set."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.data import masks, vocabulary
from training.data.conditions import Requests, count_missing, other_classes, types_of
from training.data.image_set import ImageSet
from training.data.rows import spread
from training.experiments.conditions import (
    ClassCondition,
    Condition,
    FrozenTextCondition,
    LayoutCondition,
    LayoutMapCondition,
    LowResolutionCondition,
    MaskedImageCondition,
    SemanticMapCondition,
    TextCondition,
)
from training.experiments.schema import DataConfig, DiffusionExperiment, ExperimentError
from training.model import conditioners, release
from training.model.autoencoder import AutoencoderConfig
from training.model.conditioners import Conditioner, Conditioners
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.conditioner import TokenConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.text_tokenizer import read_assets
from training.model.interop.sources import open_release
from training.model.latent_diffusion import read_assets as read_assets_of
from training.model.unet import UNetConfig

MOST_COUNTED = 10_000  # captions that are looked at to count those that are cut


def build(config: DiffusionExperiment, images: ImageSet, first_stage: AutoencoderConfig) -> Conditioners:
    """Return the conditioners with initial weights. Raises ExperimentError naming the field that is wrong."""
    found = Conditioners()
    check_initial(config, images)
    kept = read_vocabularies(config)
    for field, one in config.model.conditioners.items():
        where = f"model.conditioners.{field}"
        check_values(where, one, images, config.data)
        check_factor(where, one, first_stage.factor)
        try:
            found[field] = build_one(where, one, images, kept.get(field))
        except (ValueError, OSError) as error:
            raise ExperimentError(f"{where}: {error}") from None
    check_unet(config.model.unet, found, first_stage.latent_channels)
    return found


def count_cut_captions(built: Conditioners, images: ImageSet) -> dict[str, tuple[int, int]]:
    """Return, by the field of each conditioner of texts, how many captions are cut and the tokens that are kept.

    Of a set with more than MOST_COUNTED training images that many are looked at, evenly spread. Fields of which no
    caption is cut are left out.
    """
    texts = [text for row in spread(images.rows("train"), MOST_COUNTED) if (text := images.records[row].get("text"))]
    found = {}
    for field, one in built.items():
        if isinstance(one, TextConditioner | FrozenTextConditioner):
            cut = sum(bool(one.tokenizer.encode(text).overflowing) for text in texts)
            if cut:
                found[field] = cut, one.tokenizer.length
    return found


def check_initial(config: DiffusionExperiment, images: ImageSet) -> None:
    """Raise ExperimentError unless the images have the classes of the release `initial`, which its weights know."""
    if config.initial is None:
        return
    with open_release(Path(config.initial)) as folder:
        description = release.read(folder)
    if description.kind != "diffusion":
        return
    for field, kind in types_of(description).items():
        one = config.model.conditioners.get(field)
        if kind == "class" and one is not None and one.type == kind:
            other = other_classes(description, field, f"the release {description.name}", images.description)
            if other is not None:
                raise ExperimentError(f"initial: {field}: {other}")


def read_vocabularies(config: DiffusionExperiment) -> dict[str, dict[str, bytes]]:
    """Return the files of the vocabularies of the release `initial`, by field: its weights are of their pieces.

    Empty without that release, and if no vocabulary would be learned. Raises ReleaseError.
    """
    learned = [isinstance(one, TextCondition) and one.tokenizer is None for one in config.model.conditioners.values()]
    if config.initial is None or not any(learned):
        return {}
    with open_release(Path(config.initial)) as folder:
        description = release.read(folder)
        return read_assets_of(folder, description) if description.kind == "diffusion" else {}


def build_one(where: str, config: Condition, images: ImageSet, kept: Mapping[str, bytes] | None = None) -> Conditioner:
    """Return one conditioner. kept: the files of its vocabulary, instead of one that is learned.

    Raises ValueError, OSError or ExperimentError.
    """
    about = images.description
    match config:
        case ClassCondition():
            built = from_config(config, classes=class_count(where, config.classes, len(about.classes)))
            if isinstance(built, ClassConditioner) and any(name != str(i) for i, name in enumerate(about.classes)):
                built.names = about.classes
            return built
        case LayoutCondition() | LayoutMapCondition():
            return from_config(config, classes=class_count(where, config.classes, len(about.box_classes)))
        case SemanticMapCondition():
            return from_config(config, classes=class_count(where, config.classes, len(about.map_classes)))
        case TextCondition():
            if config.tokenizer is not None:
                assets = read_assets(Path(config.tokenizer))
            elif kept is not None:
                assets = dict(kept)
            else:
                captions = (images.records[row].get("text") for row in images.rows("train"))
                assets = vocabulary.learn([text for text in captions if text], config.vocabulary)
            arguments = asdict(config)
            del arguments["tokenizer"], arguments["vocabulary"]
            return conditioners.build(arguments, assets)
        case FrozenTextCondition():
            folder = Path(config.encoder)
            return FrozenTextConditioner.from_folder(folder, config.length, config.width, config.masked, config.entry)
        case _:
            return conditioners.build(asdict(config))


def from_config(config: Any, **changed: Any) -> Conditioner:
    """Return the conditioner of a configuration with some fields changed."""
    return conditioners.build({**asdict(config), **changed})


def class_count(where: str, configured: int | None, actual: int) -> int:
    """Return the number of classes of the set. Raises ExperimentError if another one is configured."""
    if configured is not None and configured != actual:
        raise ExperimentError(f"{where}.classes: {configured}; the images have {actual}")
    return actual


def check_values(where: str, config: Condition, images: ImageSet, data: DataConfig) -> None:
    """Raise ExperimentError if more than `data.max_bad` of the training images have no value for the conditioner."""
    count = len(images.rows("train"))
    missing = count_missing(images, config.type, given_masks=data.masks == "given")
    if missing == count:
        raise ExperimentError(f"{where}: {config.type}; no image of the set has a value for it; see docs/training.md "
                              "for the fields of metadata.jsonl")  # fmt: skip
    if missing > data.max_bad * count:
        raise ExperimentError(
            f"{where}: {missing} of {count} training images have no value for it ({100 * missing / count:.1f} %, "
            f"permitted: data.max_bad={100 * data.max_bad:g} %). Complete metadata.jsonl, or raise data.max_bad to "
            "train on them without this condition"
        )
    if isinstance(config, LowResolutionCondition | MaskedImageCondition) and config.channels != images.channels:
        raise ExperimentError(f"{where}.channels: {config.channels}; the images have {images.channels}")
    size = data.crop or images.image_size
    if isinstance(config, LowResolutionCondition) and size % data.degradation.scale:
        raise ExperimentError(f"data.degradation.scale: {data.degradation.scale}; permitted: divisors of the images' "
                              f"side, {size}")  # fmt: skip
    if isinstance(config, MaskedImageCondition) and data.masks != "given" and size < masks.SMALLEST:
        raise ExperimentError(f"data.masks: {data.masks}; holes need images of at least {masks.SMALLEST} pixels "
                              f"a side, and these have {size}")  # fmt: skip


def check_factor(where: str, config: Condition, factor: int) -> None:
    """Raise ExperimentError unless a condition is reduced by the same factor as the images."""
    if isinstance(config, MaskedImageCondition) and config.factor != factor:
        raise ExperimentError(f"{where}.factor: {config.factor}; the autoencoder's is {factor}")
    if isinstance(config, SemanticMapCondition) and 2**config.stages != factor:
        raise ExperimentError(f"{where}.stages: {config.stages}; the autoencoder halves images "
                              f"{factor.bit_length() - 1} times")  # fmt: skip


def check_unet(unet: UNetConfig, found: Conditioners, latent_channels: int) -> None:
    """Raise ExperimentError unless the U-Net's widths and channels match its inputs."""
    tokens = False
    maps = 0
    for field, one in found.items():
        where = f"model.conditioners.{field}.width"
        assert isinstance(one, Conditioner)
        if not isinstance(one, TokenConditioner):
            maps += map_channels(one, latent_channels)
            continue
        width = one.config()["width"]
        if one.entry == "cross_attention":
            tokens = True
            if width != unet.context_width:
                raise ExperimentError(f"{where}: {width}; model.unet.context_width is {unet.context_width}")
        elif width != 4 * unet.channels:
            raise ExperimentError(f"{where}: {width}; permitted: {4 * unet.channels}, 4 x channels")
    if unet.context_width is not None and not tokens:
        raise ExperimentError(
            "model.unet.context_width: is set, but no conditioner uses cross-attention; permitted: null"
        )
    if unet.out_channels != latent_channels:
        raise ExperimentError(
            f"model.unet.out_channels: {unet.out_channels}; the latents have {latent_channels} channels"
        )
    if unet.in_channels != latent_channels + maps:
        raise ExperimentError(
            f"model.unet.in_channels: {unet.in_channels}; the latents and the concatenated conditions have "
            f"{latent_channels} + {maps} channels"
        )


def map_channels(one: Conditioner, latent_channels: int) -> int:
    """Return the number of channels that a conditioner concatenates to the latent."""
    config = one.config()
    return latent_channels + 1 if config["type"] == "masked_image" else int(config["channels"])


def requests(config: DiffusionExperiment) -> Requests:
    """Return the requests that describe training images to the model."""
    conditions = config.model.conditioners
    objects = [one.objects for one in conditions.values() if isinstance(one, LayoutCondition | LayoutMapCondition)]
    return Requests(
        {field: one.type for field, one in conditions.items()},
        config.data.degradation.kind,
        config.data.degradation.scale,
        config.data.masks,
        min(objects, default=None),
    )
