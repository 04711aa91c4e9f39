"""Reading a whole folder: a pipeline with its parts, or one part alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners import ClassConditioner, Conditioner, Conditioners
from training.model.conditioners.conditioner import Entry
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner, Style
from training.model.diffusion import Diffusion
from training.model.interop.huggingface.component import OURS
from training.model.interop.huggingface.reading.first_stage import read_autoencoder
from training.model.interop.huggingface.reading.folders import DiffusersError, read_json, read_weights
from training.model.interop.huggingface.reading.foreign import READABLE, describe_class
from training.model.interop.huggingface.reading.schedule import ReadSchedule, read_schedule
from training.model.interop.huggingface.reading.text import read_text
from training.model.interop.huggingface.reading.unet import ReadUNet, read_unet
from training.model.latent_diffusion import LatentDiffusion

INDEX, CONFIG = "model_index.json", "config.json"
WEIGHTS = "diffusion_pytorch_model"
AUTOENCODERS, UNETS = ("AutoencoderKL", "VQModel"), ("UNet2DModel", "UNet2DConditionModel")
ROLES = {"autoencoder": ("vae", "vqvae"), "unet": ("unet",), "scheduler": ("scheduler",),
         "text_encoder": ("text_encoder", "bert"), "tokenizer": ("tokenizer",)}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """The folder of each part; None if there is none. pipeline: the class that combines them, or ""."""

    autoencoder: Path | None = None
    unet: Path | None = None
    scheduler: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    pipeline: str = ""


class ReadModel(NamedTuple):
    """A model, its image size in pixels, and how diffusers samples it; see `ReadSchedule`.

    guided: whether the null condition is known to have been trained.
    """

    model: Autoencoder | LatentDiffusion
    image_size: int
    schedule: ReadSchedule | None = None
    guided: bool = False


def is_diffusers_folder(folder: Path) -> bool:
    """Return whether a folder looks like one of diffusers."""
    return any((folder / name).is_file() for name in (INDEX, CONFIG)) or (folder / "unet" / CONFIG).is_file()


def read(
    folder: Path, parts: Sources | None = None, *, variant: str | None = None, null_trained: bool = False
) -> ReadModel:
    """Read a pipeline's folder, or that of an autoencoder or a U-Net alone, in eval mode.

    parts: folders that replace those of the pipeline, or complete a U-Net. variant: see `read_weights`.
    null_trained: the last class of a table of classes is the null condition, and was trained; diffusers does not say.
    Raises DiffusersError naming the file, the field or the tensors.
    """
    found = find_sources(folder)
    given = {name: path for name in ROLES if (path := getattr(parts or Sources(), name)) is not None}
    sources = replace(found, **given)
    if sources.unet is None:
        assert sources.autoencoder is not None
        config = read_json(sources.autoencoder / CONFIG)
        model = read_part(sources.autoencoder, config, variant)
        return ReadModel(model, side(sources.autoencoder, config.get("sample_size", 32)))
    return read_diffusion(sources, variant, null_trained)


def find_sources(folder: Path) -> Sources:
    """Return the folders of a model's parts. Raises DiffusersError for a folder that is not ours, or not complete."""
    if not folder.is_dir():
        raise DiffusersError(f"{folder}: is not a folder; give one that diffusers' save_pretrained wrote")
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        pipeline = str(index.get("_class_name"))
        if not pipeline.endswith("Pipeline") or pipeline not in READABLE:
            raise DiffusersError(f"{folder / INDEX}: {describe_class(pipeline)}")
        named = {name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None}
        absent = sorted(name for name in named & {n for names in ROLES.values() for n in names}
                        if not (folder / name).is_dir())  # fmt: skip
        if absent:
            raise DiffusersError(f"{folder / absent[0]}: missing, although {INDEX} names it; download it too")
    elif (folder / CONFIG).is_file():
        kind = read_json(folder / CONFIG).get("_class_name")
        if kind in AUTOENCODERS:
            return Sources(autoencoder=folder)
        if kind in UNETS:
            return Sources(unet=folder)
        raise DiffusersError(f"{folder / CONFIG}: {describe_class(kind)}")
    elif (folder / "unet" / CONFIG).is_file():
        pipeline, named = "", {path.name for path in folder.iterdir() if path.is_dir()}
    else:
        raise DiffusersError(f"{folder}: {INDEX} and {CONFIG} are missing; give a folder that diffusers wrote")
    paths = {role: next((folder / name for name in names if name in named), None) for role, names in ROLES.items()}
    if paths["unet"] is None:
        raise DiffusersError(f"{folder / INDEX}: names no unet, so that there is nothing to read")
    return Sources(pipeline=pipeline, **paths)


def read_part(folder: Path, config: Mapping[str, Any], variant: str | None) -> Autoencoder:
    """Read an autoencoder's folder. Raises DiffusersError."""
    if config.get("_class_name") not in AUTOENCODERS:
        raise DiffusersError(f"{folder / CONFIG}: {describe_class(config.get('_class_name'))}")
    try:
        return read_autoencoder(folder.name, config, read_weights(folder, WEIGHTS, variant))
    except (TypeError, ValueError) as error:
        raise DiffusersError(f"{folder / CONFIG}: {error}") from None


def read_diffusion(sources: Sources, variant: str | None, null_trained: bool) -> ReadModel:
    """Read a U-Net with the parts around it. Raises DiffusersError."""
    assert sources.unet is not None
    config = read_json(sources.unet / CONFIG)
    if config.get("_class_name") not in UNETS:
        raise DiffusersError(f"{sources.unet / CONFIG}: {describe_class(config.get('_class_name'))}")
    if sources.scheduler is None:
        raise DiffusersError(f"{sources.unet}: a U-Net does not say its noise schedule; give --scheduler FOLDER")
    sampling = read_json(sources.scheduler / "scheduler_config.json")
    if sources.pipeline.startswith("StableDiffusion"):  # as the pipeline does with folders of its first months
        sampling |= {"steps_offset": 1, "clip_sample": False}
    schedule = read_schedule(sources.scheduler.name, sampling)
    try:
        read = read_unet(
            sources.unet.name,
            config,
            read_weights(sources.unet, WEIGHTS, variant),
            first_timestep=schedule.first_timestep,
        )
    except (TypeError, ValueError) as error:
        raise DiffusersError(f"{sources.unet / CONFIG}: {error}") from None
    channels = read.unet.config.out_channels
    if sources.autoencoder is not None:
        autoencoder = read_part(sources.autoencoder, read_json(sources.autoencoder / CONFIG), variant)
    elif channels in (1, 3):
        autoencoder = Autoencoder(
            AutoencoderConfig(regularisation="identity", image_channels=channels, latent_channels=channels)
        ).eval()
    else:
        raise DiffusersError(
            f"{sources.unet}: a U-Net of {channels} channels denoises latents; give --autoencoder FOLDER"
        )
    if autoencoder.config.latent_channels != channels:
        raise DiffusersError(
            f"{sources.unet}.out_channels: {channels}; the autoencoder has {autoencoder.config.latent_channels} "
            "latent channels; give the one that the U-Net was trained with"
        )
    if sources.pipeline == "LDMSuperResolutionPipeline":  # it decodes the latents as they are
        autoencoder.latent_scale.fill_(1.0)
    ours = config.get(OURS) or {}  # in our own exports
    null_trained = bool(ours.get("guided", null_trained))
    found = make_conditioners(
        sources, read, autoencoder, variant, has_null=null_trained or bool(ours), style=ours.get("style")
    )
    conditioners = Conditioners(rename(found, ours))
    model = LatentDiffusion(autoencoder, read.unet, conditioners, Diffusion(schedule.config)).eval()
    size = side(sources.unet, config.get("sample_size")) * autoencoder.config.factor
    guided = null_trained or (sources.text_encoder is not None and not ours)
    return ReadModel(model, size, schedule, guided)


def make_conditioners(
    sources: Sources, read: ReadUNet, autoencoder: Autoencoder, variant: str | None, *, has_null: bool,
    style: Style | None = None,
) -> dict[str, Conditioner]:  # fmt: skip
    """Make the conditioners of a U-Net by request field. Raises DiffusersError for a condition that is not known.

    style: of a masked image; None is that of Stable Diffusion if there is a context.
    """
    c, found = read.unet.config, dict[str, Conditioner]()
    if read.labels is not None:
        found["class_label"] = class_conditioner(read.labels, "time_embedding", has_null)
    if sources.text_encoder is not None:
        if sources.tokenizer is None:
            raise DiffusersError(f"{sources.text_encoder}: its tokenizer is missing; give --tokenizer FOLDER")
        text = read_text(sources.text_encoder, sources.tokenizer, variant, read.projection)
        width = text.width if isinstance(text, FrozenTextConditioner) else text.transformer.width
        if width != c.context_width:
            raise DiffusersError(
                f"{sources.text_encoder}: its tokens are {width} wide; unet.cross_attention_dim is {c.context_width}"
            )
        found["caption"] = text
    elif read.projection is not None:
        weight, bias = read.projection
        found["class_label"] = class_conditioner(weight.T + bias, "cross_attention", has_null)
    elif c.context_width is not None:
        raise DiffusersError(f"{sources.unet}: a U-Net with a context needs its text; give --text-encoder FOLDER")
    maps, image, latent = c.in_channels - c.out_channels, autoencoder.config.image_channels, c.out_channels
    if maps == latent + 1:
        style = style or ("latent_diffusion" if c.context_width is None else "stable_diffusion")
        found["masked_image"] = MaskedImageConditioner(autoencoder.config.factor, image, style)
    elif maps == image and c.context_width is None:
        found["low_resolution"] = LowResolutionConditioner(image)
    elif maps:
        raise DiffusersError(
            f"{sources.unet}.in_channels: {c.in_channels} with {latent} latent channels cannot be read; "
            f"permitted: {latent}, {2 * latent + 1} for a masked image, and without a context {latent + image} for a "
            "low-resolution image"
        )
    return found


def rename(found: Mapping[str, Conditioner], ours: Mapping[str, Any]) -> dict[str, Conditioner]:
    """Return conditioners by the names that they had before our own export."""
    masked = "masked_image" if "masked" in ours else None
    names = {name: str(ours["masked"]) for name in found if name == masked}
    others = [name for name in found if name != masked]
    if len(others) == 1 and "field" in ours:
        names[others[0]] = str(ours["field"])
    return {names.get(name, name): conditioner for name, conditioner in found.items()}


def class_conditioner(table: Tensor, entry: Entry, has_null: bool) -> ClassConditioner:
    """Make the conditioner of a table of classes [K, width].

    has_null: the last row is the null condition. Otherwise all rows are classes, and the last stands for the null too.
    """
    rows, width = table.shape
    conditioner = (
        ClassConditioner(rows - 1, width, entry) if has_null else ClassConditioner(rows, width, entry, rows - 1)
    )
    conditioner.embedding.load_state_dict({"weight": table})
    return conditioner


def side(folder: Path, size: Any) -> int:
    """Return the side of square images or latents. Raises DiffusersError."""
    several = size if isinstance(size, list | tuple) else [size]
    if len(set(several)) != 1 or type(several[0]) is not int or several[0] < 1:
        raise DiffusersError(f"{folder / CONFIG}: sample_size: {size!r} cannot be read; permitted: an integer")
    return int(several[0])
