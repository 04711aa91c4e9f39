"""Importing one of their checkpoints as a release folder."""

from pathlib import Path

from torch import nn

from training.model.autoencoder import Autoencoder
from training.model.interop.compvis.checkpoint import Weights, default_weights, image_size, make_model
from training.model.interop.compvis.files import read_config, read_state
from training.model.latent_diffusion import load_autoencoder, load_diffusion, save_autoencoder, save_diffusion
from training.model.release import Release, sha256_of


def import_release(
    checkpoint: Path, config: Path, folder: Path, *, name: str, weights: Weights | None, tokenizer: Path | None
) -> tuple[Release, dict[str, int]]:
    """Write a checkpoint as a release to `folder`, and load it again as a check.

    Returns the release and each part's number of parameters. Raises CompVisError, or OSError for the folder.
    """
    block, state = read_config(config), read_state(checkpoint)
    weights = weights or default_weights(state)
    model = make_model(block, state, weights, tokenizer)
    lineage = {
        "imported_from": checkpoint.name,
        "sha256": sha256_of(checkpoint),
        "layout": "CompVis/latent-diffusion",
        "weights": weights,
    }
    size = image_size(block, model)
    parts: dict[str, nn.Module]
    if isinstance(model, Autoencoder):
        release = save_autoencoder(folder, model, name=name, image_size=size, lineage=lineage)
        load_autoencoder(folder)
        parts = {"autoencoder": model}
    else:
        release = save_diffusion(folder, model, name=name, image_size=size, lineage=lineage)
        load_diffusion(folder)
        parts = {"autoencoder": model.autoencoder, "unet": model.unet, "conditioners": model.conditioners}
    return release, {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
