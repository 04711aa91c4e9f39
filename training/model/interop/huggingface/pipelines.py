"""Which of diffusers' stock pipelines samples an export, and the example that its README shows."""

from collections.abc import Mapping
from typing import Any

from training.model.interop.huggingface import examples
from training.model.interop.huggingface.component import VERSION, Component
from training.model.interop.huggingface.conditions import ExportedConditions

NULL = [None, None]  # a part that is not there
STABLE_DIFFUSION = {  # a class-conditional model has no text encoder, and none of these
    "safety_checker": NULL, "feature_extractor": NULL, "image_encoder": NULL, "requires_safety_checker": False
}  # fmt: skip
TEXT_LENGTH = 77  # what LDMTextToImagePipeline pads every prompt to


def pipeline_of(conditions: ExportedConditions, autoencoder: Component, unet: Component) -> str | None:
    """The stock pipeline that fits; None where the parts have to be put together by hand."""
    match conditions.kind:
        case "none":
            return "LDMPipeline"
        case "text":
            return "LDMTextToImagePipeline" if text_length(conditions) == TEXT_LENGTH else None
        case "tokens" if autoencoder.class_name == "AutoencoderKL" and autoencoder.config["sample_size"] % 8 == 0:
            return "StableDiffusionPipeline"  # it takes contexts of any kind, but no other autoencoders and sizes
        case "low_resolution":  # it halves the U-Net's input channels, and knows no latent scale
            c = unet.config
            fits = c["in_channels"] == 2 * c["out_channels"] and autoencoder.config["scaling_factor"] == 1.0
            return "LDMSuperResolutionPipeline" if fits else None
    return None


def text_length(conditions: ExportedConditions) -> int:
    """The number of tokens of every prompt; 0 where there are none."""
    return len(conditions.null) if isinstance(conditions.null, list) else 0


def readme(name: str, example: str) -> str:
    """The page of an export."""
    return examples.PAGE.format(name=name, version=VERSION, example=example.strip("\n"))


def autoencoder_example(autoencoder: Component) -> str:
    """Encode and decode."""
    return examples.AUTOENCODER.format(**facts(autoencoder))


def sampling_example(pipeline: str | None, conditions: ExportedConditions, parts: Mapping[str, Component]) -> str:
    """Draw images, with guidance where there is a condition. parts: the components by folder."""
    unet, autoencoder = parts["unet"], parts.get("vae") or parts["vqvae"]
    rows = 0 if conditions.table is None else len(conditions.table)
    told = {
        **facts(autoencoder),
        "unet": unet.class_name,
        "channels": unet.config["out_channels"],
        "maps": unet.config["in_channels"] - unet.config["out_channels"],
        "size": unet.config["sample_size"],
        "rows": rows,
        "count": min(4, rows - 1),
        "null": conditions.null,
        "length": text_length(conditions),
    }
    if pipeline is not None:
        return examples.PIPELINES[pipeline].format(**told)
    given = examples.CONDITIONS[conditions.kind].format(**told).strip("\n")
    return examples.PARTS.format(**told, conditions=given, kept=examples.KEPT.get(conditions.kind, ""))


def facts(autoencoder: Component) -> dict[str, Any]:
    """What an example says of the autoencoder."""
    return {
        "autoencoder": autoencoder.class_name,
        "image_channels": autoencoder.config["in_channels"],
        "image_size": autoencoder.config["sample_size"],
        "encoded": "latent_dist.mean" if autoencoder.class_name == "AutoencoderKL" else "latents",
    }
