"""Importing one of their checkpoints as a release folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.model.autoencoder import Autoencoder
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.text import TextConditioner
from training.model.interop.compvis.checkpoint import default_weights, image_size, make_model
from training.model.interop.compvis.files import read_config, read_state
from training.model.interop.compvis.null import can_be_guided
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.scale import Origin, latent_scale
from training.model.interop.licenses import copy_licenses
from training.model.latent_diffusion import (
    LatentDiffusion,
    load_autoencoder,
    load_diffusion,
    save_autoencoder,
    save_diffusion,
)
from training.model.release import Release, sha256_of


def import_release(
    checkpoint: Path, config: Path, folder: Path, *, name: str, options: Options
) -> tuple[Release, dict[str, int]]:
    """Write a checkpoint as a release to `folder`, and load it again as a check.

    License files next to the checkpoint are copied. Returns the release and each part's number of parameters. Raises
    CompVisError, or OSError for the folder.
    """
    block, state = read_config(config), read_state(checkpoint)
    options = replace(options, weights=options.weights or default_weights(state), beside=checkpoint.parent)
    model = make_model(block, state, options)
    autoencoder = model if isinstance(model, Autoencoder) else model.autoencoder
    lineage = {
        "imported_from": checkpoint.name,
        "sha256": sha256_of(checkpoint),
        "layout": "CompVis/latent-diffusion",
        "weights": options.weights,
        "latent_scale": {
            "value": float(autoencoder.latent_scale),
            "from": scale_origin(block, state, model, options),
        },
    }
    size = image_size(block, model)
    copy_licenses(checkpoint.parent, folder)
    parts: dict[str, nn.Module]
    if isinstance(model, Autoencoder):
        release = save_autoencoder(folder, model, name=name, image_size=size, lineage=lineage)
        load_autoencoder(folder)
        parts = {"autoencoder": model}
    else:
        release = save_diffusion(
            folder, model, name=name, image_size=size, guided=is_guided(block, model, options), lineage=lineage
        )
        load_diffusion(folder)
        parts = {"autoencoder": model.autoencoder, "unet": model.unet, "conditioners": model.conditioners}
    parameters = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    return release, parameters


def scale_origin(
    block: Mapping[str, Any], state: Mapping[str, Tensor], model: LatentDiffusion | Autoencoder, options: Options
) -> Origin:
    """Return who stated the latent scale."""
    if isinstance(model, Autoencoder):
        return "given" if options.latent_scale is not None else "not measured"
    return latent_scale(block["params"], state, options.latent_scale).origin


def is_guided(block: Mapping[str, Any], model: LatentDiffusion, options: Options) -> bool:
    """Return whether the model can be guided; see `can_be_guided`."""
    kinds = model.conditioners.by_field().values()
    is_text = any(isinstance(one, TextConditioner | FrozenTextConditioner) for one in kinds)
    return can_be_guided(block["params"], options, is_text=is_text)
