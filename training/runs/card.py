"""The card of a release: a page of Markdown that describes it."""

from training.data.image_set import Description
from training.experiments.schema import (
    AutoencoderExperiment,
    DiffusionExperiment,
    DistillationExperiment,
    Experiment,
    LightDecoderExperiment,
)
from training.model.release import LIGHT_DECODER, Distilled

CLASSES = 100  # whose names are listed
LIGHT_DECODER_TITLE = "\n## Light decoder\n"


def autoencoder(config: AutoencoderExperiment, data: Description, loss: float | None) -> str:
    """Return the card of a first stage. `loss` is the mean of its last steps, or None if it was not trained."""
    m = config.model
    return f"""# {config.name}

An autoencoder ({m.regularisation}): images in [-1, 1] to {m.latent_channels} latent channels at 1/{m.factor} of their
size, and back.
`samples.png` shows images above their reconstructions.

{_training(config, data, loss)}"""


def diffusion(config: DiffusionExperiment, data: Description, loss: float | None) -> str:
    """Return the card of a second stage. `loss` is the mean of its last steps, or None if it is unknown."""
    conditions = ", ".join(f"`{name}`" for name in config.model.conditioners) or "none"
    return f"""# {config.name}

A latent diffusion model that predicts {config.model.diffusion.parameterisation}. Conditions: {conditions}.
The weights are a moving average of the trained ones. `samples.png` shows samples
below their conditions, `denoising.png` the denoising of some of them.

{_training(config, data, loss)}"""


def distillation(
    config: DistillationExperiment, data: Description, loss: float | None, teacher: str, served: Distilled
) -> str:
    """Return the card of a distilled release. teacher: its name and digest."""
    low, high = served.guidance
    return f"""# {config.name}

A latent diffusion model that was distilled from {teacher}. It is sampled in {", ".join(map(str, served.steps))}
evaluations of one row each, with a guidance scale from {low:g} to {high:g}.
The weights are a moving average of the trained ones. `samples.png` shows samples
below their conditions, `denoising.png` the denoising of some of them.

{_training(config, data, loss)}"""


def light_decoder(config: LightDecoderExperiment, data: Description, loss: float | None) -> str:
    """Return what the card of a release says of its light decoder."""
    return f"""{LIGHT_DECODER_TITLE}
`{LIGHT_DECODER}.safetensors` decodes the same latents with fewer operations. It was distilled from the decoder of this
release, whose other weights stay as they were. `{LIGHT_DECODER}.png` shows images, what the own decoder makes of their
latents, and what the light one does.

{_training(config, data, loss)}"""


def _training(config: Experiment, data: Description, loss: float | None) -> str:
    classes = ""
    if isinstance(config, DiffusionExperiment) and any(c.type == "class" for c in config.model.conditioners.values()):
        more = len(data.classes) - CLASSES
        names = ", ".join(data.classes[:CLASSES]) + (f" and {more:,} more" if more > 0 else "")
        classes = f"| Classes | {names} |\n"
    return f"""| | |
|---|---|
| Images | {data.name}, {data.train_count} for training, sha256 {data.fingerprint[:12]} |
{classes}| Steps | {config.steps} of {config.batch_size} images |
| Seed | {config.seed} |
| Final loss | {"none" if loss is None else f"{loss:.4f}"} |
"""
