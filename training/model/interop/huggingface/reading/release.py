"""Importing a folder of diffusers as a release folder."""

from pathlib import Path
from typing import Any

from torch import nn

from training.model.autoencoder import Autoencoder
from training.model.interop.huggingface.reading.model import CONFIG, INDEX, Sources, read
from training.model.interop.licenses import copy_licenses
from training.model.latent_diffusion import load_autoencoder, load_diffusion, save_autoencoder, save_diffusion
from training.model.release import Release, sha256_of


def import_release(
    folder: Path,
    output: Path,
    *,
    name: str,
    parts: Sources | None = None,
    variant: str | None = None,
    null_trained: bool = False,
) -> tuple[Release, dict[str, int]]:
    """Write a folder of diffusers as a release to `output`, and load it again as a check. See `read` for the options.

    Files with a license are copied. Returns the release and each part's number of parameters. Raises DiffusersError or
    WeightsError, or OSError for the output.
    """
    found = read(folder, parts, variant=variant, null_trained=null_trained)
    model = found.model
    described = next(path for name in (INDEX, CONFIG, f"unet/{CONFIG}") if (path := folder / name).is_file())
    lineage: dict[str, Any] = {
        "imported_from": folder.resolve().name,
        "sha256": sha256_of(described),
        "layout": "diffusers",
    }
    if found.schedule is not None:
        reason = f"none samples as diffusers does, because {found.schedule.reason}"
        lineage["sampler"] = found.schedule.sampler or reason
    autoencoder = model if isinstance(model, Autoencoder) else model.autoencoder
    lineage["latent_scale"] = {"value": float(autoencoder.latent_scale), "from": "configuration"}
    copy_licenses(folder, output)
    modules: dict[str, nn.Module]
    if isinstance(model, Autoencoder):
        release = save_autoencoder(output, model, name=name, image_size=found.image_size, lineage=lineage)
        load_autoencoder(output)
        modules = {"autoencoder": model}
    else:
        release = save_diffusion(
            output, model, name=name, image_size=found.image_size, guided=found.guided, lineage=lineage
        )
        load_diffusion(output)
        modules = {"autoencoder": model.autoencoder, "unet": model.unet, "conditioners": model.conditioners}
    return release, {part: sum(p.numel() for p in module.parameters()) for part, module in modules.items()}
