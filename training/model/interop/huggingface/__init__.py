"""Export to diffusers: folders that its `from_pretrained` loads and its pipelines sample.

Exporting renames weights and translates configurations; it approximates nothing. A model that diffusers cannot express
is refused by the name of the field. Writing a folder does not need diffusers itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.model import release
from training.model.autoencoder import Autoencoder
from training.model.interop.huggingface.component import (
    OURS,
    Component,
    ExportError,
    model_config,
    write_json,
    write_tensors,
)
from training.model.interop.huggingface.conditions import export_conditions
from training.model.interop.huggingface.first_stage import autoencoder_component
from training.model.interop.huggingface.pipelines import (
    STABLE_DIFFUSION,
    autoencoder_example,
    choose_pipeline,
    readme,
    sampling_example,
)
from training.model.interop.huggingface.scheduler import first_timestep, scheduler_component
from training.model.interop.huggingface.unet import unet_component
from training.model.interop.licenses import copy_licenses
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, load_diffusion

__all__ = ["ExportError", "export", "export_autoencoder", "export_diffusion"]


def export(source: Path, folder: Path) -> str:
    """Export a release folder of either kind into a new or empty folder. Returns the diffusers class that loads it.

    License files are copied.

    Raises ReleaseError for a release that cannot be read, and ExportError for one that diffusers cannot express or a
    folder that is not empty.
    """
    description = release.read(source)
    _, height, width = description.image_shape
    if height != width:
        raise ExportError(f"image_shape: {height}x{width} pixels cannot be exported; permitted: square images")
    if description.kind == "autoencoder":
        model, _ = load_autoencoder(source)
        kind = export_autoencoder(model, folder, name=description.name, image_size=height)
    else:
        diffusion, _ = load_diffusion(source)
        kind = export_diffusion(diffusion, folder, name=description.name, image_size=height, guided=description.guided)
    copy_licenses(source, folder)
    return kind


def export_autoencoder(model: Autoencoder, folder: Path, *, name: str, image_size: int) -> str:
    """Write an autoencoder into the folder itself. Returns and raises as `export`."""
    component = autoencoder_component(model, image_size=image_size)
    make_folder(folder)
    component.write(folder)
    (folder / "README.md").write_text(readme(name, autoencoder_example(component)))
    return component.class_name


def export_diffusion(model: LatentDiffusion, folder: Path, *, name: str, image_size: int, guided: bool = True) -> str:
    """Write each part into its own folder, and `model_index.json` if a stock pipeline can combine them.

    guided: whether the null condition was trained, which only Darkroom reads. Returns and raises as `export`.
    """
    conditions = export_conditions(model.conditioners)
    autoencoder = autoencoder_component(model.autoencoder, image_size=image_size)
    denoiser = unet_component(
        model.unet,
        latent_size=image_size // model.autoencoder.config.factor,
        projection=conditions.projection,
        labels=conditions.table if conditions.kind == "labels" else None,
        first_timestep=first_timestep(model.diffusion.config),
    )
    denoiser.config[OURS] = {**conditions.fields, "guided": guided}
    pipeline = None
    if model.diffusion.config.schedule != "flow" and not model.unet.config.coordinates:
        pipeline = choose_pipeline(conditions, autoencoder, denoiser)
    parts = {
        "vae" if pipeline in STABLE_DIFFUSION else "vqvae": autoencoder,
        "unet": denoiser,
        "scheduler": scheduler_component(model.diffusion.config),
        **conditions.components,
    }
    make_folder(folder)
    for part, component in parts.items():
        component.write(folder / part)
    if pipeline is not None:
        write_json(folder / "model_index.json", model_index(pipeline, parts))
    write_tensors(folder / "conditions.safetensors", conditions.tensors)
    (folder / "README.md").write_text(readme(name, sampling_example(pipeline, conditions, parts, model.unet.config)))
    return pipeline or denoiser.class_name


def model_index(pipeline: str, parts: Mapping[str, Component]) -> dict[str, Any]:
    """Return the content of `model_index.json`, which `DiffusionPipeline.from_pretrained` reads first."""
    classes = {part: [component.library, component.class_name] for part, component in parts.items()}
    return model_config(pipeline, **classes, **STABLE_DIFFUSION.get(pipeline, {}))


def make_folder(folder: Path) -> None:
    """Make the folder. Raises ExportError if it is not empty or cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ExportError(f"{folder}: not empty; name a folder that does not exist yet")
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror})") from None
