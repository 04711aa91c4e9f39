"""The choice of a stock pipeline of diffusers for an export, and the example in its README."""

from collections.abc import Mapping
from typing import Any

from training.model.interop.huggingface import examples
from training.model.interop.huggingface.component import VERSION, Component
from training.model.interop.huggingface.conditions import ExportedConditions
from training.model.unet import UNetConfig

NULL = [None, None]  # marks a missing part
ABSENT = {  # which neither a class-conditional model nor an export has
    "safety_checker": NULL, "feature_extractor": NULL, "image_encoder": NULL, "requires_safety_checker": False
}  # fmt: skip
STABLE_DIFFUSION = {"StableDiffusionPipeline": ABSENT, "StableDiffusionInpaintPipeline": ABSENT}
TEXT_LENGTH = 77  # to which LDMTextToImagePipeline pads every prompt


def choose_pipeline(conditions: ExportedConditions, autoencoder: Component, unet: Component) -> str | None:
    """Return the stock pipeline that fits, or None if the example has to combine the parts itself."""
    even = autoencoder.class_name == "AutoencoderKL" and autoencoder.config["sample_size"] % 8 == 0
    if conditions.masked is not None:  # the context's pipeline for it; an image alone has none
        fits = conditions.kind == "clip" and even and unet.config["in_channels"] == 9  # it accepts no other number
        return "StableDiffusionInpaintPipeline" if fits else None
    match conditions.kind:
        case "none":
            return "LDMPipeline"
        case "text":
            return "LDMTextToImagePipeline" if text_length(conditions) == TEXT_LENGTH else None
        case "tokens" | "clip" if even:
            return "StableDiffusionPipeline"  # it accepts any context, but only such autoencoders and sizes
        case "low_resolution":  # it halves the U-Net's input channels and ignores the latent scale
            c = unet.config
            fits = c["in_channels"] == 2 * c["out_channels"] and autoencoder.config["scaling_factor"] == 1.0
            return "LDMSuperResolutionPipeline" if fits else None
    return None


def text_length(conditions: ExportedConditions) -> int:
    """Return the number of tokens of every prompt, or 0 without prompts."""
    return len(conditions.null) if isinstance(conditions.null, list) else 0


def readme(name: str, example: str) -> str:
    """Return the README of an export."""
    return examples.PAGE.format(name=name, version=VERSION, example=example.strip("\n"))


def autoencoder_example(autoencoder: Component) -> str:
    """Return a program that encodes and decodes images."""
    return examples.AUTOENCODER.format(**autoencoder_values(autoencoder))


def sampling_example(
    pipeline: str | None, conditions: ExportedConditions, parts: Mapping[str, Component], unet_config: UNetConfig
) -> str:
    """Return a program that samples images, with guidance if there is a condition. parts: the components by folder."""
    unet, autoencoder = parts["unet"], parts.get("vae") or parts["vqvae"]
    rows = 0 if conditions.table is None else len(conditions.table)
    values = {
        **autoencoder_values(autoencoder),
        "unet": unet.class_name,
        "channels": unet.config["out_channels"],
        "maps": unet_config.in_channels - unet_config.out_channels,
        "size": unet.config["sample_size"],
        "rows": rows,
        "count": min(4, rows - 1) if rows else 4,
        "null": conditions.null,
        "length": text_length(conditions),
        "scheduler": parts["scheduler"].class_name,
        "timesteps": examples.TIMESTEPS.get(parts["scheduler"].class_name, "steps"),
        "load_unet": examples.LOAD_UNET[unet_config.coordinates].format(unet=unet.class_name).strip("\n"),
        **conditions.values,
    }
    if pipeline is not None:
        example = "ClipPipeline" if (conditions.kind, conditions.masked) == ("clip", None) else pipeline
        return examples.PIPELINES[example].format(**values)
    values["input"] = "latents" if conditions.masked is None else examples.WITH_MAPS
    program = examples.CONDITIONS[conditions.kind]
    if conditions.masked is not None:
        program = program + examples.MASKED
        values |= examples.MASKED_STYLES[conditions.masked]
    restored = "" if conditions.masked is None else examples.RESTORED
    program = program.format(**values).strip("\n")
    return examples.PARTS.format(**values, conditions=program, restored=restored)


def autoencoder_values(autoencoder: Component) -> dict[str, Any]:
    """Return the values that examples need from the autoencoder."""
    return {
        "autoencoder": autoencoder.class_name,
        "image_channels": autoencoder.config["in_channels"],
        "image_size": autoencoder.config["sample_size"],
        "encoded": "latent_dist.mean" if autoencoder.class_name == "AutoencoderKL" else "latents",
    }
