"""Checkpoints of others against their own code: `python -m tests.benchmarks.checkpoints [RECORDINGS]`.

Imports each model, samples it, and prints the relative difference from the original; then exports the release to
diffusers and prints the difference of that. Weights are small and random. The original is diffusers, with weights that
its own converters read from the same file; or, in the folder RECORDINGS, what the authors' code answered.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from tests.support.comparison import relative_error
from tests.support.stable_diffusion_runs import KINDS, import_files, sample_here, sample_there
from training.model import sampling
from training.model.guidance import Guidance
from training.model.interop import huggingface
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.release import import_release
from training.model.latent_diffusion import load_diffusion

RECORDED = ("ldm_unconditional_vq", "ldm_class_kl")


class Row(NamedTuple):
    """A model: its difference from the original when imported, and when exported again, or why it is not."""

    model: str
    original: str
    imported: float
    exported: str


def stable_diffusion(kind: str, folder: Path) -> Row:
    """Measure a kind of Stable Diffusion over a whole guided run."""
    release, parts = import_files(kind, folder)
    expected = sample_there(parts, KINDS[kind].get("prediction", "eps"))
    return Row(f"Stable Diffusion {kind}", "diffusers", relative_error(sample_here(release), expected), export(release))


def export(release: Path) -> str:
    """Return the difference between a release of Stable Diffusion and what diffusers makes of its export."""
    from diffusers import StableDiffusionPipeline

    out = release.parent / "exported"
    try:
        huggingface.export(release, out)
    except huggingface.ExportError as error:
        return refusal(error)
    if not (out / "model_index.json").is_file():
        return "parts alone"
    pipeline = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    prediction = "v" if pipeline.scheduler.config.prediction_type == "v_prediction" else "eps"
    return f"{relative_error(sample_here(release), sample_there(parts, prediction)):.1e}"


def refusal(error: huggingface.ExportError) -> str:
    """Return why a release is not exported, for a cell of the table."""
    together = "cannot be exported together" in str(error)
    return "refused: a caption and a masked image together" if together else f"refused: {error}"


@torch.inference_mode()
def recorded(name: str, weights: Any, recordings: Path, folder: Path) -> Row:
    """Measure a model whose whole run the authors' code recorded."""
    source = recordings / name
    options = Options(weights=weights)
    import_release(source / "model.ckpt", source / "config.yaml", folder / "release", name="m", options=options)
    model, _ = load_diffusion(folder / "release")
    tensors, run = load_file(source / "sampling.safetensors"), json.loads((source / "sampling.json").read_text())
    requests: list[dict[str, Any]] = [{} for _ in tensors["x_T"]]
    for field, part in model.conditioners.by_field().items():
        table = torch.as_tensor(part.get_parameter("embedding.weight"))
        requests = [{field: int((table - token).norm(dim=1).argmin())} for token in tensors["context"][:, 0]]
    images = sampling.generate(
        model,
        requests,
        range(len(requests)),
        latent_shape=tensors["x_T"].shape[1:],
        start=tensors["x_T"],
        sampler=sampling.Sampler(run["sampler"], run["steps"], "leading", eta=run["eta"]),
        guidance=Guidance(run["guidance_scale"]),
    )
    expected = tensors["image_ema" if weights == "ema" else "image"].clamp(-1, 1)
    try:
        exported = f"as {huggingface.export(folder / 'release', folder / 'exported')}"
    except huggingface.ExportError as error:
        exported = refusal(error)
    return Row(f"{name}, {weights}", "the authors' code", relative_error(images, expected), exported)


def measure(recordings: Path | None) -> Iterator[Row]:
    """Yield a row for every model."""
    for name in RECORDED if recordings is not None else ():
        for weights in ("raw", "ema"):
            with TemporaryDirectory() as folder:
                assert recordings is not None
                yield recorded(name, weights, recordings, Path(folder))
    for kind in KINDS:
        with TemporaryDirectory() as folder:
            yield stable_diffusion(kind, Path(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path, nargs="?", help="folder with recordings of the authors' code")
    print("| model | original | imported | exported to diffusers |\n| --- | --- | ---: | --- |")
    for row in measure(parser.parse_args(arguments).recordings):
        print(f"| {row.model} | {row.original} | {row.imported:.1e} | {row.exported} |", flush=True)


if __name__ == "__main__":
    main()
