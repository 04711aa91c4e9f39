"""Release folders with a light decoder: `light_decoder.safetensors`, and its architecture in `release.json`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.model import release
from training.model.latent_diffusion import LIGHT_DECODER_FILE, build_model, load_weights, save_weights
from training.model.light_decoder import LightDecoder
from training.model.release import LIGHT_DECODER, Release


def load(folder: Path, description: Release) -> LightDecoder | None:
    """Load the light decoder of a release of either kind, which was read, in eval mode; None if it has none.

    Raises ReleaseError.
    """
    if not description.has_light_decoder:
        return None
    decoder = build_model(folder, lambda: LightDecoder.build(description.architecture))
    load_weights(decoder, folder / LIGHT_DECODER_FILE)
    return decoder.eval()


def add(folder: Path, decoder: LightDecoder, description: Release, lineage: Mapping[str, Any]) -> Release:
    """Add a light decoder to the files of a release, or replace it, and write `release.json` for all files.

    description: of the release before. lineage: of the decoder. The default is the own decoder until `write_scores`.
    """
    save_weights(decoder, folder / LIGHT_DECODER_FILE)
    architecture = {**description.architecture, LIGHT_DECODER: decoder.light.to_json()}
    metrics = {name: value for name, value in description.metrics.items() if name != LIGHT_DECODER}
    lineage = {**description.lineage, LIGHT_DECODER: dict(lineage)}
    changed = replace(description, architecture=architecture, metrics=metrics, lineage=lineage)
    return release.write(folder, changed.with_default_decoder())


def write_scores(folder: Path, scores: Mapping[str, Any]) -> Release:
    """Store the evaluation of a release's light decoder, and make the decoder the default that it permits.

    Raises ReleaseError.
    """
    found = release.read(folder)
    metrics = {**found.metrics, LIGHT_DECODER: dict(scores)}
    return release.write(folder, replace(found, metrics=metrics).with_default_decoder())


def carry(folder: Path, made: Release, source: Release) -> Release:
    """Tell a new release, which was made with the decoders of `source`, what is known of its light decoder."""
    if not made.has_light_decoder:
        return made
    lineage = {**made.lineage, LIGHT_DECODER: source.lineage.get(LIGHT_DECODER, {})}
    metrics = {**made.metrics, LIGHT_DECODER: source.metrics.get(LIGHT_DECODER, {})}
    return release.write(folder, replace(made, lineage=lineage, metrics=metrics).with_default_decoder())
